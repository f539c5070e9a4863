//! What a port asks beside its batches: to be heard by one, to hear.
//!
//! Our table follows the broker: a subscription is entered after the broker has it and leaves before it leaves the broker, an
//! exclusion the other way round.

use crate::{
    bus::{
        Ask, Drum, Filter, PortError, SendError,
        embedded::{
            Core,
            broker::Client,
            lane::Speaker,
            listen::{self, EAR_QUEUE},
            member::Member,
            publisher::Publisher,
            put::let_owners_run,
        },
    },
    native::codec::Code,
};

impl Publisher {
    /// Does what a port asks.
    pub(super) async fn answer(&mut self, port: u64, ask: Ask) -> Result<(), SendError> {
        self.open_all();
        let Speaker { client, listener, .. } = self.ports.get_mut(&port).ok_or(SendError::Closed)?;
        let listener = listener.as_ref().map(|listener| &*listener.member);
        match ask {
            Ask::Broadcast { mask, payload } => client.broadcast(&mask, &payload, false).await.map_err(cause),
            Ask::PublishFor { topic, receiver, payload } => {
                client.publish_for(topic.slashed(), &receiver, &payload, false).await.map_err(cause)
            }
            Ask::Send { target, payload } => send(&self.core, client, &target, &payload).await,
            Ask::Exclude(_) | Ask::Hear(_) | Ask::Unexclude(_) | Ask::Unhear(_) => match listener {
                Some(member) => adjust(&self.core, client, member, ask).await,
                // There is no ear that could hear it.
                None => Ok(()),
            },
        }
    }

    /// Lets a port hear: its name gets a client whose queue is read.
    pub(super) async fn attach(&mut self, port: u64, drum: Drum) -> Result<(), PortError> {
        self.open_all();
        let pumps = self.pumps.clone();
        let slot = pumps.reserve().await.map_err(|_| PortError::Closed)?;
        let Speaker { client, lanes, unsettled, listener } =
            self.ports.remove(&port).ok_or(PortError::Closed)?;
        // One that it has already leaves the table before the name does.
        drop(listener);
        let name = client.name().to_owned();
        // A client whose queue was given away, as a port's is, cannot hear any more, so the name gets another.
        let exchanged = self.core.exchange(client, EAR_QUEUE).await;
        let (client, queue, id) = match exchanged {
            Ok(exchanged) => exchanged,
            Err(error) => {
                self.withdraw(port, lanes, unsettled).await;
                self.core.leave();
                return Err(error);
            }
        };
        let (listener, pump) = listen::open(&self.core, (id, &name), queue, drum);
        slot.send(pump);
        self.ports.insert(port, Speaker { client, lanes, unsettled, listener: Some(listener) });
        Ok(())
    }
}

async fn send(core: &Core, client: &mut Client, target: &str, payload: &[u8]) -> Result<(), SendError> {
    if let Some(member) = core.table.named(target) {
        if member.is_full() {
            return Err(SendError::Busy);
        }
        let_owners_run(&[member]).await;
    }
    client.send(target, payload, false).await.map_err(cause)
}

async fn adjust(core: &Core, client: &mut Client, member: &Member, ask: Ask) -> Result<(), SendError> {
    let done = match &ask {
        Ask::Hear(filters) => {
            let filters: Vec<&str> = filters.iter().map(Filter::as_str).collect();
            let done = client.subscribe(&filters).await;
            if done.is_ok() {
                core.table.subscribe(member.id, filters);
            }
            done
        }
        Ask::Unhear(filters) => {
            let filters: Vec<&str> = filters.iter().map(Filter::as_str).collect();
            core.table.unsubscribe(member.id, filters.iter().copied());
            client.unsubscribe(&filters).await
        }
        Ask::Exclude(filters) => {
            let filters: Vec<&str> = filters.iter().map(Filter::as_str).collect();
            for filter in &filters {
                member.exclude(filter);
            }
            core.table.changed();
            client.exclude(&filters).await
        }
        Ask::Unexclude(filters) => {
            let filters: Vec<&str> = filters.iter().map(Filter::as_str).collect();
            let done = client.unexclude(&filters).await;
            for filter in &filters {
                member.unexclude(filter);
            }
            core.table.changed();
            done
        }
        Ask::Broadcast { .. } | Ask::PublishFor { .. } | Ask::Send { .. } => return Ok(()),
    };
    done.map_err(cause)
}

const fn cause(code: Code) -> SendError {
    match code {
        Code::NOT_REGISTERED => SendError::NoClient,
        Code::BUSY => SendError::Busy,
        _ => SendError::Undelivered,
    }
}
