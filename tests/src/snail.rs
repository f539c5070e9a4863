//! A bus client that reads one frame a second, until it is told to hurry.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use crate::{stubborn::Stubborn, subscriber::Heard};

/// Reads one frame a second.
#[derive(Debug)]
pub struct Snail {
    heard: Arc<Mutex<Vec<Heard>>>,
    /// Dropped, it hurries.
    pace: Option<mpsc::Sender<()>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Snail {
    /// Connects to `socket` as `name` and subscribes to `pattern` (slashed).
    ///
    /// # Errors
    ///
    /// The system's, or "not admitted".
    pub fn connect(socket: &Path, name: &str, pattern: &str) -> io::Result<Self> {
        let mut client = Stubborn::connect(socket, name, pattern)?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (pace, paced) = mpsc::channel::<()>();
        let kept = Arc::clone(&heard);
        let reader = thread::spawn(move || {
            while let Ok(next) = client.read() {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(next);
                // Its slowness is what it is for; without its other end the channel answers at once.
                let (Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) | Ok(())) =
                    paced.recv_timeout(Duration::from_secs(1));
            }
        });
        Ok(Self { heard, pace: Some(pace), reader: Some(reader) })
    }

    /// Reads as fast as it can from now on.
    pub fn hurry(&mut self) {
        self.pace = None;
    }

    /// All that it has read so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it was sent away, and has read what was left.
    pub fn has_ended(&self) -> bool {
        self.reader.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }
}
