//! The live tail: a few lines a second of what arrives, whatever the rate.

use std::{sync::Arc, time::Duration};

use daemoneye_bridge::bus::Message;
use tokio::time::Instant;

use crate::demo::observation::Heard;

/// Chooses which messages are shown.
#[derive(Debug)]
pub(super) struct Tail {
    second: Instant,
    /// Lines of this second: by topic, how many.
    shown: Vec<(Arc<str>, u32)>,
}

/// Most lines a second that show a sample.
const SAMPLES: u32 = 1;

/// Most lines a second of any other topic.
const CHANGES: u32 = 2;

impl Tail {
    /// Begins.
    pub(super) fn new() -> Self {
        Self { second: Instant::now(), shown: Vec::new() }
    }

    /// The line that shows a message, if it is one of the few.
    pub(super) fn line(&mut self, message: &Message, heard: &Heard) -> Option<String> {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        let most = if message.topic.ends_with("/metadata") { SAMPLES } else { CHANGES };
        match self.shown.iter_mut().find(|(topic, _)| *topic == message.topic) {
            Some((_, count)) if *count == most => return None,
            Some((_, count)) => *count += 1,
            None => self.shown.push((Arc::clone(&message.topic), 1)),
        }
        // The name of a process is whatever it says: it must not move the cursor.
        let name: String = heard.name.chars().filter(|c| !c.is_control()).take(32).collect();
        let topic = message.topic.replace('/', ".");
        Some(format!("  {:<18} {topic:<25} pid {:<8} {name}", heard.collector, heard.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_shows_a_few_lines_and_nobody_moves_the_cursor() {
        let message = |topic: &str| Message {
            sender: "collector.site-a.procmond".into(),
            topic: topic.into(),
            payload: bytes::Bytes::new(),
        };
        let heard = serde_json::json!({"collector": "site-a/procmond", "seq": 1, "timestamp": 0, "pid": 7,
            "name": "a\u{1b}[2Jb"});
        let heard: Heard = serde_json::from_value(heard).unwrap();
        let mut tail = Tail::new();
        let mut shown =
            |topic| (0..100).filter_map(|_| tail.line(&message(topic), &heard)).collect::<Vec<_>>();
        assert_eq!(shown("events/process/metadata").len(), 1);
        let starts = shown("events/process/start");
        assert_eq!(starts.len(), 2);
        assert!(starts[0].ends_with("a[2Jb") && starts[0].contains("events.process.start"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(shown("events/process/start").len(), 2);
    }
}
