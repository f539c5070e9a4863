//! A remote collector that is reached through its session: called, sent to, subscribed.

use std::time::Duration;

use bytes::Bytes;
use daemoneye_proto::v1::{
    Attach, Call, CallError, Cancel, Deliver, RefusedName, Reply, Send, Subscriptions, link_request,
    link_response::Frame, reply::Outcome,
};
use tonic::{Status, transport::Channel};

use crate::peer::Session;

/// A remote collector, driven frame by frame; what a test does not look for is passed over.
#[derive(Debug)]
pub struct Collector {
    /// Its session.
    pub session: Session,
}

impl Collector {
    /// Opens a session without streams.
    ///
    /// # Errors
    ///
    /// The gateway's status, if it does not admit the peer.
    pub async fn join(channel: Channel) -> Result<Self, Status> {
        let (session, _) = Session::open(channel, Vec::new()).await?;
        Ok(Self { session })
    }

    /// The first frame that `pick` takes.
    ///
    /// # Panics
    ///
    /// If the session ends first.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(Frame) -> Option<T>) -> T {
        loop {
            let frame = self.session.next().await.expect("the session goes on");
            if let Some(found) = pick(frame) {
                return found;
            }
        }
    }

    /// Attaches these names instead of those before; returns what was refused.
    pub async fn attach(&mut self, names: &[&str]) -> Vec<RefusedName> {
        let collectors = names.iter().map(|name| (*name).to_owned()).collect();
        self.session.say(link_request::Frame::Attach(Attach { collectors })).await;
        self.attached().await
    }

    /// Waits for the word on an Attach, or that a name was lost.
    pub async fn attached(&mut self) -> Vec<RefusedName> {
        self.until(|frame| match frame {
            Frame::Attached(attached) => Some(attached.refused),
            _ => None,
        })
        .await
    }

    /// Hears these patterns instead of those before; returns what was refused.
    pub async fn subscribe(&mut self, collector: &str, patterns: &[&str]) -> Vec<RefusedName> {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let wanted = Subscriptions { patterns, collector: collector.to_owned() };
        self.session.say(link_request::Frame::Subscriptions(wanted)).await;
        self.subscribed().await
    }

    /// Waits for the word on Subscriptions.
    pub async fn subscribed(&mut self) -> Vec<RefusedName> {
        self.until(|frame| match frame {
            Frame::Subscribed(subscribed) => Some(subscribed.refused),
            _ => None,
        })
        .await
    }

    /// Waits for a call.
    pub async fn called(&mut self) -> Call {
        self.until(|frame| match frame {
            Frame::Call(call) => Some(call),
            _ => None,
        })
        .await
    }

    /// Waits until a client gives up its call; returns its number.
    pub async fn cancelled(&mut self) -> u64 {
        self.until(|frame| match frame {
            Frame::Cancel(cancel) => Some(cancel.id),
            _ => None,
        })
        .await
    }

    /// Waits for a message.
    pub async fn delivered(&mut self) -> Deliver {
        self.until(|frame| match frame {
            Frame::Deliver(deliver) => Some(deliver),
            _ => None,
        })
        .await
    }

    /// Answers a call.
    pub async fn answer(&self, id: u64, result: impl Into<Bytes>) {
        let outcome = Some(Outcome::Result(result.into()));
        self.session.say(link_request::Frame::Reply(Reply { id, outcome })).await;
    }

    /// Answers a call with an error.
    pub async fn fail(&self, id: u64, code: i32, message: &str) {
        let error = CallError { code, message: message.to_owned() };
        let outcome = Some(Outcome::Error(error));
        self.session.say(link_request::Frame::Reply(Reply { id, outcome })).await;
    }

    /// Calls a client of the bus; its answer is to be waited for.
    pub async fn call(&self, id: u64, target: &str, params: impl Into<Bytes>, budget: Option<Duration>) {
        let call = Call {
            id,
            target: target.to_owned(),
            method: "Echo".to_owned(),
            params: params.into(),
            budget: budget.map(|budget| budget.try_into().expect("test budgets are short")),
            caller: String::new(),
        };
        self.session.say(link_request::Frame::Call(call)).await;
    }

    /// Gives up a call.
    pub async fn cancel(&self, id: u64) {
        self.session.say(link_request::Frame::Cancel(Cancel { id })).await;
    }

    /// Sends a client of the bus a message.
    pub async fn send(&self, id: u64, target: &str, payload: impl Into<Bytes>) {
        let (target, collector) = (target.to_owned(), String::new());
        let send = Send { id, target, payload: payload.into(), collector };
        self.session.say(link_request::Frame::Send(send)).await;
    }

    /// Waits for the answer to a call or message: the result, or the code of the error.
    pub async fn answered(&mut self, id: u64) -> Result<Bytes, i32> {
        let outcome = self.until(|frame| match frame {
            Frame::Reply(reply) if reply.id == id => Some(reply.outcome),
            _ => None,
        });
        match outcome.await {
            Some(Outcome::Result(result)) => Ok(result),
            Some(Outcome::Error(error)) => Err(error.code),
            None => Ok(Bytes::new()),
        }
    }
}
