//! The gRPC service, for which everything else here is plain Rust.
//!
//! Who calls is read from the request's extensions, where the connection put it; nothing a peer writes can change it.

use std::{pin::Pin, sync::Arc};

use daemoneye_proto::v1::{self, federation_server::Federation};
use futures_util::{Stream, StreamExt, stream::Map};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::session::{
    Hall, call,
    http2::Caller,
    link::{self, Visitor},
    listen::{self, Listener},
    outbox::{Answer, Outbox},
    registry::Guest,
    status::Fault,
};

/// What a session tells its peer.
type Answers = Map<ReceiverStream<Answer>, fn(Answer) -> Result<v1::LinkResponse, Status>>;

/// Serves the federation protocol.
#[derive(Clone, Debug)]
pub(super) struct Service(pub(super) Arc<Hall>);

/// Who makes a request.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::internal("the connection has no peer"))
}

impl Service {
    fn open_link(&self, caller: &Caller, inbound: Streaming<v1::LinkRequest>) -> Result<Answers, Fault> {
        let hall = &self.0;
        if hall.leash.is_draining() {
            return Err(hall.draining());
        }
        let rights = hall.judge.rights(caller.peer())?;
        let presence = hall.registry.admit(Guest::Greeting, caller.peer().id())?;
        let (wire, answers) = mpsc::channel(Outbox::ROOM);
        let peer = caller.peer().clone();
        let (remote, cut) = (caller.remote(), caller.cut().clone());
        let retiring = caller.retiring().clone();
        let visitor = Visitor { rights, peer, remote, presence, cut, retiring };
        hall.leash.spawn(link::run(Arc::clone(hall), visitor, inbound, wire));
        Ok(ReceiverStream::new(answers).map(|answer| *answer))
    }

    async fn open_subscription(&self, caller: &Caller, texts: &[String]) -> Result<listen::Inflow, Fault> {
        let hall = &self.0;
        if hall.leash.is_draining() {
            return Err(hall.draining());
        }
        let patterns = listen::patterns(texts)?;
        let rights = hall.judge.rights(caller.peer())?;
        let permit = rights.subscribe(patterns.clone())?;
        let presence = hall.registry.admit(Guest::Hearing, caller.peer().id())?;
        let hearing = hall.bus.subscribe(permit).await?;
        let (queue, inflow) = listen::queue(hall.metrics.who(rights.label(), caller.peer().id().site()));
        let listener = Listener { rights, patterns, hearing, cut: caller.cut().waiting(), presence };
        hall.leash.spawn(listen::run(Arc::clone(hall), listener, queue));
        Ok(inflow)
    }
}

#[tonic::async_trait]
impl Federation for Service {
    type LinkStream = Answers;
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let caller = caller(&request)?;
        let answers = self.open_link(&caller, request.into_inner());
        if let Err(fault) = &answers {
            self.0.metrics.call("link", fault.reason());
        }
        Ok(Response::new(answers?))
    }

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let caller = caller(&request)?;
        let answer = call::publish(Arc::clone(&self.0), &caller, request.into_inner()).await;
        self.0.metrics.call("publish", call::outcome(&answer));
        Ok(Response::new(answer?))
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = caller(&request)?;
        let inflow = self.open_subscription(&caller, &request.get_ref().patterns).await;
        self.0.metrics.call("subscribe", call::outcome(&inflow));
        Ok(Response::new(Box::pin(inflow?)))
    }
}
