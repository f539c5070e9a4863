//! File descriptors: what strangers and collectors may use up, and what is kept back for operators.
//!
//! Every connection is a descriptor, and the process has a limit of them. Admin, local clients and files are counted first;
//! what is left is for the federation port, whose caps are lowered if it is not enough. So a flood can never take the
//! descriptors of the admin listener.
//!
//! Linux keeps the descriptors of a process in a table that it doubles when it is full. Where there are several threads it
//! then waits until no processor can still see the old one: 10 to 20 ms in which the accepting worker does nothing, at 256,
//! 512, 1024 connections and so on. So the table is made as large as it may become before anybody comes.

use std::{fs::File, num::NonZeroUsize};

use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::{app::BindError, config::Config, ingress};

/// Files, timers, signals, outgoing connections and whoever was dropped a moment ago.
const OWN: usize = 64;

/// Fewer would be no federation.
const LEAST: usize = 16;

/// Raises the limit of this process as far as it goes, and lowers the caps of the federation port to what is left.
pub(super) fn make_room(config: &mut Config) -> Result<(), BindError> {
    let wanted = kept(config).saturating_add(port(&config.tcp));
    let limit = raise(wanted);
    widen(wanted.min(limit));
    let left = limit.saturating_sub(kept(config));
    if left >= port(&config.tcp) {
        return Ok(());
    }
    let (connections, waiting) = (config.tcp.limits.connections, config.tcp.listener.max_waiting);
    fit(&mut config.tcp, left).ok_or(BindError::Descriptors { limit, least: kept(config) + LEAST })?;
    tracing::warn!(
        limit,
        wanted,
        max_connections = config.tcp.limits.connections,
        instead_of = connections,
        max_waiting = config.tcp.listener.max_waiting,
        instead_of_waiting = waiting,
        "too few file descriptors, caps lowered: raise the limit (LimitNOFILE, ulimit -n) or lower the caps"
    );
    Ok(())
}

/// What is kept back from the federation port.
const fn kept(config: &Config) -> usize {
    let admin = config.admin.max_connections.get();
    let probes = if config.admin.probe_address.is_some() { admin } else { 0 };
    let socket = if config.admin.socket_path.is_some() { admin } else { 0 };
    OWN.saturating_add(admin)
        .saturating_add(probes)
        .saturating_add(socket)
        .saturating_add(config.unix_socket.max_connections.get())
}

/// What the federation port may use.
fn port(tcp: &ingress::Config) -> usize {
    let unproven = tcp.listener.max_waiting.saturating_add(tcp.listener.max_handshakes.get());
    tcp.limits.connections.saturating_add(unproven.get()).get().saturating_add(tcp.limits.polite())
}

/// Lowers the caps until they fit into `left`, of which the unproven get less than a fifth.
fn fit(tcp: &mut ingress::Config, left: usize) -> Option<()> {
    if left < LEAST {
        return None;
    }
    let listener = &mut tcp.listener;
    listener.max_handshakes = listener.max_handshakes.min(NonZeroUsize::new(left / 16)?);
    listener.max_waiting = listener.max_waiting.min(NonZeroUsize::new(left / 8)?);
    let unproven = listener.max_handshakes.saturating_add(listener.max_waiting.get());
    let room = left.saturating_sub(unproven.get());
    // An eighth more, four at the least, is told that there is no room.
    let connections = room.saturating_sub(4).min(room.saturating_mul(8) / 9);
    tcp.limits.connections = tcp.limits.connections.min(NonZeroUsize::new(connections)?);
    Some(())
}

/// Raises the limit to `wanted` or as far as it goes; returns what it is then.
fn raise(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let number =
        |limit: Option<u64>| limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    if number(current) >= wanted {
        return number(current);
    }
    let new = u64::try_from(wanted.min(number(maximum))).ok();
    match setrlimit(Resource::Nofile, Rlimit { current: new, maximum }) {
        Ok(()) => number(new),
        Err(_) => number(current),
    }
}

/// Makes the table of descriptors wide enough for so many. It costs eight bytes for each.
fn widen(count: usize) {
    let highest = i32::try_from(count.saturating_sub(1)).unwrap_or(i32::MAX);
    let widened = File::open("/dev/null").and_then(|file| Ok(fcntl_dupfd_cloexec(file, highest)?));
    if let Err(error) = widened {
        // It grows when it has to.
        tracing::debug!(%error, count, "could not widen the table of file descriptors");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_table_is_widened_and_nothing_stays_open() {
        let size = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            line.trim().parse::<usize>().unwrap()
        };
        let wanted = raise(3000).min(3000);
        widen(wanted);
        assert!(size() >= wanted, "{}", size());
        assert!(!std::path::Path::new(&format!("/proc/self/fd/{}", wanted - 1)).exists());
    }

    #[test]
    fn caps_are_lowered_to_what_is_left_and_no_further() {
        for left in [16, 40, 100, 1000, 5000] {
            let mut tcp = Config::default().tcp;
            tcp.limits.connections = NonZeroUsize::new(12_000).unwrap();
            fit(&mut tcp, left).unwrap();
            assert!(port(&tcp) <= left, "{} of {left}", port(&tcp));
            assert!(port(&tcp) >= left * 2 / 3, "{} of {left}", port(&tcp));
        }
        let mut tcp = Config::default().tcp;
        assert_eq!(fit(&mut tcp, 15), None);
    }
}
