//! Which transport to use: a walk down a tree of three questions.

use daemoneye_bridge::transport::Kind;
use serde::Serialize;

/// Where the two ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On hosts of their own.
    Remote,
    /// In processes of one host.
    SameHost,
    /// In one process.
    SameProcess,
}

/// Which operating system the producing end runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Linux, macOS, BSD.
    Unix,
    /// Windows.
    Windows,
}

/// Until when the producer wants to know that its event is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Until a live broker has it.
    Bus,
    /// Not at all.
    None,
    /// Until every subscriber has taken it.
    Subscriber,
}

/// What is advised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Which transport.
    pub transport: &'static str,
    /// The questions that led there, with their answers.
    pub path: Vec<String>,
    /// Why.
    pub why: &'static str,
    /// How it is set up.
    pub how: &'static str,
    /// How an event is confirmed as wanted.
    pub confirmation: &'static str,
    /// How to try it.
    pub try_it: String,
}

/// Walks the tree.
#[must_use]
pub fn advise(place: Where, system: System, need: Need) -> Advice {
    let mut path = vec![format!("same process? {}", yes(place == Where::SameProcess))];
    if place != Where::SameProcess {
        path.push(format!("same host? {}", yes(place == Where::SameHost)));
    }
    if place == Where::SameHost {
        path.push(format!("Windows? {}", yes(system == System::Windows)));
    }
    let kind = match (place, system) {
        (Where::SameProcess, _) => Kind::InProcess,
        (Where::SameHost, System::Unix) => Kind::UnixSocket,
        (Where::SameHost, System::Windows) => Kind::NamedPipe,
        (Where::Remote, _) => Kind::TcpMtls,
    };
    let (why, how) = reason(kind);
    Advice {
        transport: kind.as_str(),
        path,
        why,
        how,
        confirmation: confirmation(kind, need),
        try_it: format!("daemoneye-cli transport test --type {kind}"),
    }
}

const fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

const fn reason(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::InProcess => (
            "no socket and no copy between two processes: the shortest way and the highest rate; both ends live and die \
             together",
            "Bus::port and Bus::subscribe of the embedded broker; [in_process]",
        ),
        Kind::NamedPipe => (
            "Windows has no UNIX sockets that busrt could use; a named pipe stays on the host, and its security descriptor \
             says who may open it",
            "the leaf serves it on Windows; BUS/RT clients connect to the pipe",
        ),
        Kind::TcpMtls => (
            "only a network joins two hosts, and on a network both ends must prove who they are: TLS with a certificate each, \
             and a policy that says what this certificate may do",
            "[tcp] at the gateway; at the other end a leaf, whose spool keeps events while the network is away",
        ),
        Kind::UnixSocket => (
            "the kernel says who connects and nothing leaves the host, so neither keys nor encryption are needed; any BUS/RT \
             client speaks it",
            "[unix_socket] at gateway or leaf; connect a BUS/RT client to unix_socket.socket_path",
        ),
    }
}

const fn confirmation(kind: Kind, need: Need) -> &'static str {
    match (need, kind) {
        (Need::None, Kind::TcpMtls) => "none is needed, but a session acknowledges all the same: ignore it",
        (Need::None, _) => "publish with QoS No: nothing is answered",
        (Need::Bus, Kind::InProcess) => {
            "a route with confirm = \"bus\": the ticket ends when the broker has it"
        }
        (Need::Bus, Kind::TcpMtls) => "a route with confirm = \"bus\": the ack comes when the broker has it",
        (Need::Bus, _) => "publish with QoS Processed: the ack says that the broker has it",
        (Need::Subscriber, Kind::InProcess) => {
            "a route with confirm = \"socket\", the default: the ticket ends when every subscriber has taken it"
        }
        (Need::Subscriber, Kind::TcpMtls) => {
            "a route with confirm = \"socket\", the default: the ack comes when every subscriber has taken it"
        }
        (Need::Subscriber, _) => {
            "a leaf: its door acknowledges what is in its spool, and its gateway what every subscriber has taken"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_the_tree_is_reached_by_its_questions() {
        let found = |place, system| advise(place, system, Need::Bus);
        assert_eq!(found(Where::SameProcess, System::Windows).transport, "in-process");
        assert_eq!(found(Where::SameHost, System::Unix).transport, "unix-socket");
        assert_eq!(found(Where::Remote, System::Windows).transport, "tcp-mtls");
        let pipe = found(Where::SameHost, System::Windows);
        assert_eq!(pipe.transport, "named-pipe");
        assert_eq!(pipe.path, ["same process? no", "same host? yes", "Windows? yes"]);
    }
}
