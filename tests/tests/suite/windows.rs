//! The leaf as it is built for Windows, under Wine: what a client of its pipe was told is safe reaches a gateway on Linux.
//!
//! `just windows-pipe` builds the programs and runs this.

use std::{fs, path::PathBuf, time::Duration};

use daemoneye_tests::{
    engine::Engine,
    eventually,
    process::{Program, signal},
    world::{Leaf, World},
};

use crate::world;

/// Events of one run.
const EVENTS: usize = 10_000;

const ENVELOPE: &str = r#"
[[bus.route]]
pattern = "events.#"
envelope = "cloudevents"
"#;

/// Where the events of the leaf come from, as the engine sees it.
const SENDER: &str = "collector.site-a.leaf-1";

/// The programs for Windows, and a leaf's folder.
struct Wine {
    programs: PathBuf,
    folder: PathBuf,
    pipe: String,
}

impl Wine {
    /// Turns the configuration of a leaf into one for Windows.
    fn of(leaf: &Leaf) -> Self {
        let programs = std::env::var_os("DAEMONEYE_TEST_WINDOWS").expect(
            "DAEMONEYE_TEST_WINDOWS names the folder of the Windows programs; `just windows-pipe` sets it",
        );
        let pipe = format!(r"\\.\pipe\daemoneye-test-{}", std::process::id());
        let text = fs::read_to_string(&leaf.config).unwrap();
        let (before, rest) = text.split_once("[unix_socket]\nsocket_path = ").unwrap();
        let (_, after) = rest.split_once('\n').unwrap();
        let text = format!("{before}[named_pipe]\npipe_name = '{pipe}'\n{after}");
        // Wine shows the whole file system as the drive Z:.
        fs::write(&leaf.config, text.replace("\"/", "\"Z:/")).unwrap();
        Self { programs: programs.into(), folder: leaf.folder.clone(), pipe }
    }

    fn start(&self, program: &str, args: &[&str]) -> Program {
        let exe = self.programs.join(program);
        assert!(exe.exists(), "{} is not built", exe.display());
        let exe = exe.to_str().unwrap().to_owned();
        Program::start("wine", &[&[exe.as_str()], args].concat(), &self.folder)
    }

    fn leaf(&self) -> Program {
        let config = format!("Z:{}", self.folder.join("bridge.toml").display());
        self.start("daemoneye-bridge.exe", &["--config", &config])
    }

    fn publish(&self, count: usize) -> Program {
        self.start(
            "publish.exe",
            &[&self.pipe, "procmond", "events/process/start", &count.to_string(), "--hear"],
        )
    }
}

async fn serving(leaf: &Leaf, program: &mut Program) {
    eventually("the Windows leaf serves", || {
        assert!(!program.has_ended(), "{}", program.log());
        leaf.get("/livez").is_some_and(|(status, _)| status == 200)
    })
    .await;
}

async fn started(envelope: &str) -> (World, Engine, Leaf) {
    let mut world = world(envelope);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    eventually("the engine is there", || engine.is_connected()).await;
    let leaf = world.leaf("site-a", "leaf-1", "");
    (world, engine, leaf)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the Windows build and Wine: just windows-pipe"]
async fn what_a_windows_leaf_took_from_its_pipe_reaches_the_gateway() {
    let (_world, engine, leaf) = started(ENVELOPE).await;
    let wine = Wine::of(&leaf);
    let mut program = wine.leaf();
    serving(&leaf, &mut program).await;

    let mut client = wine.publish(EVENTS);
    eventually("the pipe's client is done", || client.has_ended()).await;
    let said = client.log();
    assert!(
        said.contains(&format!("sent {EVENTS} confirmed {EVENTS} refused 0 heard {EVENTS}")),
        "{said}\n{}",
        program.log()
    );
    eventually("all that was confirmed has come", || engine.books().missing(SENDER, EVENTS).is_empty()).await;
    let books = engine.books();
    assert_eq!((books.disorder, books.holes(), books.repeated()), (0, 0, 0));
    println!(
        "pipe under Wine: {} lost {} duplicates {} ({})",
        EVENTS,
        books.missing(SENDER, EVENTS).len(),
        books.duplicates,
        said.trim()
    );

    // Wine makes Ctrl-C of it.
    signal("INT", program.id()).unwrap();
    let status = program.ended(Duration::from_secs(20)).await;
    assert!(status.success() && program.log().contains("leaf drained"), "{status} {}", program.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the Windows build and Wine: just windows-pipe"]
async fn a_windows_leaf_that_is_killed_keeps_what_it_confirmed() {
    let (mut world, engine, leaf) = started(ENVELOPE).await;
    let wine = Wine::of(&leaf);
    let mut program = wine.leaf();
    serving(&leaf, &mut program).await;
    // So that the events stay in the spool.
    world.kill();
    let mut client = wine.publish(EVENTS);
    eventually("the pipe's client is done", || client.has_ended()).await;
    assert!(client.log().contains(&format!("confirmed {EVENTS}")), "{}", client.log());
    program.kill();

    let mut program = wine.leaf();
    serving(&leaf, &mut program).await;
    world.start().await;
    eventually("all that was confirmed has come", || engine.books().missing(SENDER, EVENTS).is_empty()).await;
    let books = engine.books();
    println!(
        "killed under Wine: {EVENTS} lost {} duplicates {}",
        books.missing(SENDER, EVENTS).len(),
        books.duplicates
    );
    program.kill();
}
