//! What a collector does when it loses the right to be here.

use std::time::Duration;

use daemoneye_tests::{
    blocked::Blocked,
    peer::{Credentials, Session, batch, new_stream, request},
    world::World,
};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tonic::Status;
use uuid::Uuid;

/// One whose right is withdrawn.
#[derive(Debug)]
pub(crate) enum Victim {
    /// Says nothing.
    Idle(Session, mpsc::Receiver<Instant>),
    /// Publishes.
    Publishing(Session, mpsc::Receiver<Instant>),
    /// Has stopped reading, and sends PINGs.
    Stuck(Blocked),
}

impl Victim {
    /// Connects the victim whose turn is `number`: each does something else than the one before. It is in that state when
    /// this returns.
    pub(crate) async fn connect(world: &World, credentials: &Credentials, number: u64) -> Self {
        if number % 3 == 2 {
            let blocked = Blocked::connect(credentials, world.address).await.unwrap();
            blocked.stuck().await;
            return Self::Stuck(blocked);
        }
        let (channel, end) = credentials.witnessed(world.address).await.unwrap();
        let stream = Uuid::new_v4();
        let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
        if number.is_multiple_of(3) {
            return Self::Idle(session, end);
        }
        let say = session.say.clone();
        // Ends with its session.
        drop(tokio::spawn(async move {
            let mut pace = time::interval(Duration::from_millis(20));
            for seq in 1.. {
                let frame = batch(stream, seq, "events.process.start", [b"{}".to_vec()]);
                if say.send(request(frame)).await.is_err() {
                    return;
                }
                pace.tick().await;
            }
        }));
        session.acked(stream, 1).await.unwrap();
        Self::Publishing(session, end)
    }

    /// Whether it has a session.
    pub(crate) const fn has_session(&self) -> bool {
        !matches!(self, Self::Stuck(_))
    }

    /// Waits for the end of its connection as its socket saw it, and says what it was told, if it read.
    pub(crate) async fn ended(self) -> End {
        let bound = Duration::from_secs(20);
        let (state, mut session, mut end) = match self {
            Self::Stuck(blocked) => {
                return End { state: "stuck", told: None, when: blocked.ended(bound).await };
            }
            Self::Idle(session, end) => ("idle", session, end),
            Self::Publishing(session, end) => ("publishing", session, end),
        };
        let told = Some(session.ended().await);
        drop(session);
        let when = time::timeout(bound, end.recv()).await.expect("the socket ends").expect("it is told");
        End { state, told, when }
    }
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct End {
    /// What it did.
    pub(crate) state: &'static str,
    /// With which status; none if it did not read.
    pub(crate) told: Option<Status>,
    pub(crate) when: Instant,
}
