# Longer recipes; `.ci/run` has what must hold before a change lands.

# Everything that CI runs.
ci:
    .ci/run

# The demo: everything at once, with this machine's processes.
demo seconds="20":
    cargo run --release --bin daemoneye-gateway -- demo --for {{seconds}}s

# Kills gateway and leaf twenty times each at random moments under full load.
kill rounds="20":
    DAEMONEYE_TEST_KILL_ROUNDS={{rounds}} cargo test --release -p daemoneye-tests --test suite -- kill --nocapture --test-threads 1

# Changes the gateway's certificate every second under full load.
rotate seconds="60":
    DAEMONEYE_TEST_ROTATION={{seconds}} cargo test --release -p daemoneye-tests --test suite -- rotation --nocapture --test-threads 1

# One bench (handshake, throughput, latency, native, spool) with the profile that images are built with.
bench name:
    cargo bench --profile dist -p daemoneye-tests --bench {{name}}

# One of 10,000 connected collectors is revoked by a list of 100,000, denied, without a role, expired, each twenty times under
# load; needs 12,000 descriptors.
revoke-10000:
    cargo test --release -p daemoneye-tests --test suite -- --ignored --nocapture one_of_ten_thousand

# The flood at its full size: 15,000 half-open connections, 1,000 junk handshakes, 1,000 silent peers.
flood:
    DAEMONEYE_TEST_FLOOD=full cargo test --release -p daemoneye-tests --test flood -- --nocapture

# Three tiers, killed at random for five minutes.
chain seconds="300":
    DAEMONEYE_TEST_CHAIN={{seconds}} cargo test --release -p daemoneye-tests --test suite -- chain --nocapture --test-threads 1

# The BUS/RT codec under libFuzzer with the address sanitizer. The flags are what `cargo fuzz` sets, for a stable compiler.
fuzz seconds="600":
    cd tests/fuzz && mkdir -p corpus && RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address --cfg fuzzing -Ccodegen-units=1" cargo run --release --target x86_64-unknown-linux-gnu --bin codec -- -max_total_time={{seconds}} -max_len=8192 corpus

# Builds the leaf for Windows (Debian 12; as root it installs what is missing).
windows profile="release":
    deploy/windows/build.sh {{profile}}

# The Windows leaf under Wine takes events from its pipe and delivers them to a gateway on this machine.
windows-pipe profile="debug":
    deploy/windows/pipe-test.sh {{profile}}
