//! The door beside the real `busrtd`: one scripted conversation with both, compared byte by byte.
//!
//! What may differ is listed in `docs/busrt-compatibility.md`, which is held to this test: a difference that is not listed
//! there fails, and so does one that is listed and gone.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use daemoneye_tests::{eventually, eventually::soon, process::Program, world::tool};

use crate::world;

mod line;
mod msgpack;

use line::Line;

/// What was heard under each step of the script.
type Minutes = BTreeMap<String, String>;

const PUBLISH: u8 = 0x01;
const SUBSCRIBE: u8 = 0x02;
const UNSUBSCRIBE: u8 = 0x03;
const EXCLUDE: u8 = 0x04;
const UNEXCLUDE: u8 = 0x05;
const PUBLISH_FOR: u8 = 0x06;
const MESSAGE: u8 = 0x12;
const BROADCAST: u8 = 0x13;

/// The conversation, as one who wrote it down.
struct Clerk<'a> {
    socket: &'a Path,
    minutes: Minutes,
}

impl Clerk<'_> {
    /// What a client hears that greets with `opening` and claims `name`.
    async fn greet(&mut self, step: &str, opening: [u8; 3], name: &[u8]) -> Option<Line> {
        let (heard, line) = Line::greet(self.socket, opening, name).await;
        self.note(step, &heard);
        line
    }

    async fn join(&self, name: &str) -> Line {
        let (heard, line) = Line::greet(self.socket, line::OPENING, name.as_bytes()).await;
        line.unwrap_or_else(|| panic!("{name} is not let in: {heard}"))
    }

    fn note(&mut self, step: &str, heard: &str) {
        assert!(self.minutes.insert(step.to_owned(), heard.to_owned()).is_none(), "{step} twice");
    }

    /// Lets `who` ask with each quality of service, and notes what he and `other` hear.
    async fn each(&mut self, step: &str, (who, other): (&mut Line, &mut Line), operation: u8, body: &[u8]) {
        for qos in 0..4 {
            let heard = who.ask(operation, qos, body).await;
            let heard_too = other.heard().await;
            self.note(&format!("{step}, QoS {qos}"), &format!("{heard} / {heard_too}"));
        }
    }

    /// The same, confirmed, once.
    async fn once(&mut self, step: &str, (who, other): (&mut Line, &mut Line), operation: u8, body: &[u8]) {
        let heard = who.ask(operation, 1, body).await;
        let heard_too = other.heard().await;
        self.note(step, &format!("{heard} / {heard_too}"));
    }

    /// What a new client hears that writes `frame`, and whether it is cut off.
    async fn broken(&mut self, step: &str, frame: &[u8]) {
        // A name of its own: that of the last one is taken until the broker has seen it go.
        let mut line = self.join(&format!("breaker-{}", self.minutes.len())).await;
        line.write(frame).await;
        let heard = line.heard().await;
        self.note(step, &heard);
    }

    /// Lets `who` call the broker itself, and notes the answer; the numbers in it, if they are not to be compared, as `n`.
    async fn call(&mut self, step: &str, who: &mut Line, request: &[u8]) {
        who.write(&line::frame(7, MESSAGE, 1, &[b".broker\0", request].concat())).await;
        // The broker answers beside the connection, so that either may be first.
        let (first, second) = (who.next().await, who.next().await);
        let (ack, answer) = if first.starts_with(&[0xFE]) { (first, second) } else { (second, first) };
        self.note(step, &format!("{ack:02x?} / {}", msgpack::without_numbers(&answer)));
    }
}

/// The whole script.
async fn converse(socket: &Path) -> Minutes {
    let mut clerk = Clerk { socket, minutes: Minutes::new() };
    greetings(&mut clerk).await;
    let (mut left, mut right) = (clerk.join("talk.left").await, clerk.join("talk.right").await);
    subscriptions(&mut clerk, (&mut left, &mut right)).await;
    messages(&mut clerk, (&mut left, &mut right)).await;
    oddities(&mut clerk, (&mut left, &mut right)).await;
    broker(&mut clerk, (&mut left, &mut right)).await;
    broken(&mut clerk).await;
    clerk.minutes
}

async fn greetings(clerk: &mut Clerk<'_>) {
    let first = clerk.greet("greeting", line::OPENING, b"first").await;
    clerk.greet("greeting of another protocol", [0xEC, 1, 0], b"x").await;
    clerk.greet("greeting of another version", [0xEB, 2, 0], b"x").await;
    for (step, name) in [
        ("name that is empty", &b""[..]),
        ("name with a leading dot", b".broker"),
        ("name that is taken", b"first"),
        ("name that is not UTF-8", b"\xFF"),
        ("name of four segments", b"cli.host.example.4711"),
        ("name of five segments", b"cli.host.example.com.4711"),
        ("name of a remote collector", b"collector.site-a.procmond-1"),
        ("name of a second instance", b"first%%0"),
        ("name of a second instance of nobody", b"nobody%%0"),
        ("name with a wildcard", b"any.*"),
        ("name with a control character", b"a\nb"),
        ("name with a space and an accent", "D\u{e9}tecteur 1".as_bytes()),
        ("name of 257 bytes", &[b'x'; 257]),
    ] {
        clerk.greet(step, line::OPENING, name).await;
    }
    drop(first);
}

async fn subscriptions(clerk: &mut Clerk<'_>, (left, right): (&mut Line, &mut Line)) {
    clerk.each("subscribe", (left, right), SUBSCRIBE, b"a/#\0b/+/c").await;
    clerk.each("subscribe to nothing", (left, right), SUBSCRIBE, b"").await;
    for (step, topic) in [
        ("publish to a subscriber", &b"a/x\0pay\0load"[..]),
        ("publish to one who hears it by `+`", b"b/x/c\0p"),
        ("publish to one who hears it by neither", b"b/x/d\0p"),
        ("publish nothing", b"a/x\0"),
        ("publish to a topic with a space and an accent", "a/\u{b0} C\0p".as_bytes()),
    ] {
        clerk.each(step, (right, left), PUBLISH, topic).await;
    }
    clerk.each("publish to oneself", (left, right), PUBLISH, b"a/x\0p").await;
    clerk.each("publish for a subscriber", (right, left), PUBLISH_FOR, b"a/x\0talk.left\0p").await;
    clerk.each("publish for one who does not hear it", (right, left), PUBLISH_FOR, b"c\0talk.left\0p").await;
    clerk.each("publish for nobody", (right, left), PUBLISH_FOR, b"a/x\0nobody\0p").await;
    clerk.each("exclude", (left, right), EXCLUDE, b"a/quiet\0a/dull/#").await;
    clerk.once("publish what is excluded", (right, left), PUBLISH, b"a/quiet\0p").await;
    clerk.once("publish what is excluded by `#`", (right, left), PUBLISH, b"a/dull/x\0p").await;
    clerk.once("publish for one who excludes it", (right, left), PUBLISH_FOR, b"a/quiet\0talk.left\0p").await;
    clerk.each("unexclude", (left, right), UNEXCLUDE, b"a/quiet\0a/dull/#").await;
    clerk.each("unexclude what was not excluded", (left, right), UNEXCLUDE, b"a/never").await;
    clerk.once("publish what was excluded", (right, left), PUBLISH, b"a/quiet\0p").await;
    clerk.each("unsubscribe", (left, right), UNSUBSCRIBE, b"a/#").await;
    clerk.each("unsubscribe what was not subscribed", (left, right), UNSUBSCRIBE, b"never").await;
    clerk.once("publish what is no longer heard", (right, left), PUBLISH, b"a/x\0p").await;
    clerk.once("subscribe to all", (left, right), SUBSCRIBE, b"#").await;
    clerk.once("publish to one who hears all", (right, left), PUBLISH, b"z\0p").await;
    clerk.once("unsubscribe from all", (left, right), UNSUBSCRIBE, b"#").await;
}

async fn messages(clerk: &mut Clerk<'_>, (left, right): (&mut Line, &mut Line)) {
    clerk.each("message", (left, right), MESSAGE, b"talk.right\0hel\0lo").await;
    clerk.each("message to oneself", (left, right), MESSAGE, b"talk.left\0hello").await;
    clerk.each("message to nobody", (left, right), MESSAGE, b"nobody\0hello").await;
    clerk.each("message to an empty name", (left, right), MESSAGE, b"\0hello").await;
    clerk.each("message to a name with a control character", (left, right), MESSAGE, b"a\nb\0hello").await;
    clerk.each("broadcast", (left, right), BROADCAST, b"talk.*\0all").await;
    clerk.each("broadcast to a segment", (left, right), BROADCAST, b"?.right\0all").await;
    clerk.each("broadcast to nobody", (left, right), BROADCAST, b"nobody.*\0all").await;
    for (step, message) in [
        ("RPC notification", &b"talk.right\0\0note"[..]),
        ("RPC request", b"talk.right\0\x01\x07\0\0\0method\0params"),
        ("RPC reply", b"talk.right\0\x11\x07\0\0\0result"),
        ("RPC error", b"talk.right\0\x12\x07\0\0\0\xA7\x82what"),
    ] {
        clerk.once(step, (left, right), MESSAGE, message).await;
    }
}

async fn oddities(clerk: &mut Clerk<'_>, (left, right): (&mut Line, &mut Line)) {
    let deep = ["a"; 17].join("/").into_bytes();
    let with = |topic: &[u8]| [topic, b"\0p"].concat();
    clerk.once("publish to an empty topic", (left, right), PUBLISH, b"\0p").await;
    clerk.once("publish to a wildcard", (left, right), PUBLISH, b"a/+\0p").await;
    clerk.once("publish to a topic with a control character", (left, right), PUBLISH, b"a\tb\0p").await;
    clerk.once("publish to a topic of 17 segments", (left, right), PUBLISH, &with(&deep)).await;
    clerk.once("publish to a topic of 1025 bytes", (left, right), PUBLISH, &with(&[b'x'; 1025])).await;
    clerk.once("publish to the broker's topics", (left, right), PUBLISH, b".broker/x\0p").await;
    clerk.once("subscribe to 17 segments", (left, right), SUBSCRIBE, &deep).await;
    clerk.once("subscribe to what goes on behind `#`", (left, right), SUBSCRIBE, b"a/#/b").await;
    clerk.once("subscribe with a control character", (left, right), SUBSCRIBE, b"a\tb").await;
    clerk.once("exclude 17 segments", (left, right), EXCLUDE, &deep).await;
    clerk.once("broadcast to an empty mask", (left, right), BROADCAST, b"\0p").await;
    clerk
        .once("broadcast to 17 segments", (left, right), BROADCAST, &with(["a"; 17].join(".").as_bytes()))
        .await;
    let many = (0..1025).map(|n| format!("many/{n}")).collect::<Vec<_>>().join("\0").into_bytes();
    clerk.once("subscribe to 1025 topics", (left, right), SUBSCRIBE, &many).await;
    clerk.once("unsubscribe from 1025 topics", (left, right), UNSUBSCRIBE, &many).await;
    clerk.once("exclude 1025 topics", (left, right), EXCLUDE, &many).await;
    clerk.once("unexclude 1025 topics", (left, right), UNEXCLUDE, &many).await;
    left.write(&[0; 9]).await;
    let heard = left.heard().await;
    clerk.note("ping", &heard);
    left.write(&[1, 0, 0, 0, 0x40, 2, 0, 0, 0, b'x', 0]).await;
    let heard = left.heard().await;
    clerk.note("nothing, with a quality of service", &heard);
}

async fn broker(clerk: &mut Clerk<'_>, (left, right): (&mut Line, &mut Line)) {
    for (step, request) in [
        ("call of test", &b"\x01\x01\0\0\0test\0"[..]),
        ("call of test with parameters", b"\x01\x02\0\0\0test\0\x80"),
        ("call of info", b"\x01\x03\0\0\0info\0"),
        ("call of stats", b"\x01\x04\0\0\0stats\0"),
        ("call of client.list", b"\x01\x05\0\0\0client.list\0"),
        ("call of client.list with a filter", b"\x01\x06\0\0\0client.list\0\x81\xA6filter\xA6^talk\\"),
        ("call of client.list with a good filter", b"\x01\x06\0\0\0client.list\0\x81\xA6filter\xA6^talk."),
        ("call of benchmark.test", b"\x01\x07\0\0\0benchmark.test\0\x01\x02\x03"),
        ("call of what is not there", b"\x01\x08\0\0\0nothing\0"),
    ] {
        clerk.call(step, left, request).await;
    }
    clerk.once("call without a reply", (left, right), MESSAGE, b".broker\0\x01\0\0\0\0test\0").await;
    clerk.once("notification of the broker", (left, right), MESSAGE, b".broker\0\0note").await;
    clerk.once("half a call", (left, right), MESSAGE, b".broker\0\x01\x01").await;
    clerk.once("subscribe to announcements", (left, right), SUBSCRIBE, b".broker/info").await;
    let other = clerk.join("passing").await;
    let came = left.next().await;
    clerk.note("announcement of who comes", &msgpack::without_numbers(&came));
    drop(other);
    let went = left.next().await;
    clerk.note("announcement of who goes", &msgpack::without_numbers(&went));
    clerk.once("unsubscribe from announcements", (left, right), UNSUBSCRIBE, b".broker/info").await;
}

async fn broken(clerk: &mut Clerk<'_>) {
    for (step, operation, body) in [
        ("publish without an end of its topic", PUBLISH, &b"a/x"[..]),
        ("publish for without an end of its receiver", PUBLISH_FOR, b"a\0x"),
        ("message without an end of its target", MESSAGE, b"x"),
        ("publish to what is not UTF-8", PUBLISH, b"\xFF\0p"),
        ("publish for what is not UTF-8", PUBLISH_FOR, b"a\0\xFF\0p"),
        ("subscribe to what is not UTF-8", SUBSCRIBE, b"a\0\xFF"),
        ("an operation that is unknown", 0x20, b"x\0"),
        ("an operation that only a broker has", 0x3E, b"x\0"),
        ("nothing, with a quality of service and no body", 0x00, b""),
    ] {
        clerk.broken(step, &line::frame(7, operation, 1, body)).await;
    }
    clerk
        .broken("a frame of 2 MiB", &line::frame(7, PUBLISH, 1, &[&b"a\0"[..], &vec![0; 2 << 20]].concat()))
        .await;
}

/// The steps that the page lists as different, in its table.
fn listed() -> Vec<String> {
    let path = format!("{}/../docs/busrt-compatibility.md", env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(path).expect("the page is there");
    let (_, table) = page.split_once("| step |").expect("the page has the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_start_matches("| ").split(" | ").next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn the_door_answers_as_busrtd_does_but_for_what_is_listed() {
    let Some(busrtd) =
        tool("DAEMONEYE_TEST_BUSRTD", "the_door_answers_as_busrtd_does_but_for_what_is_listed")
    else {
        return;
    };
    let mut world = world("");
    let socket = world.path("busrtd.sock");
    let path = socket.to_str().expect("test paths are UTF-8");
    let _busrtd = Program::start(&busrtd, &["-B", path], world.folder.path());
    eventually("busrtd answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    world.start().await;

    let real = soon("the conversation with busrtd", converse(&socket)).await;
    let ours = soon("the conversation with the door", converse(&world.socket())).await;

    assert!(real.keys().eq(ours.keys()), "the script is one");
    let mut differ = Vec::new();
    let mut shown = String::new();
    for (step, heard) in &real {
        if ours[step] != *heard {
            differ.push(step.clone());
            writeln!(shown, "{step}\n  busrtd {heard}\n  door   {}", ours[step])
                .expect("a string can be written");
        }
    }
    let mut listed = listed();
    listed.sort();
    println!("{} steps, {} differ as listed", real.len(), differ.len());
    assert_eq!(differ, listed, "differences, and what is listed:\n{shown}");
}
