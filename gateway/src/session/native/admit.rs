//! From a connection to a session: greeting, name, rights, voice, seat.

use std::sync::Arc;

use daemoneye_bridge::{bus::BusName, native::codec::Code};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    bus::OpenError,
    policy::Rights,
    session::{
        bell::Order,
        credit::Window,
        http2::Caller,
        live::Arrival,
        native::{
            Server,
            calls::Ledger,
            config::ClaimedName,
            greet::{GreetError, answer, greet},
            hears::Hears,
            talk::{Session, Subscriptions},
            uplink::{Parts, Uplink},
            wire::Wire,
        },
        registry::{Claimant, Guest},
        status::Fault,
    },
    snapshot::Certificate,
};

impl Server {
    /// Greets a client and gives it its name and its seat; a client that is not admitted is told so.
    pub(super) async fn admit<I>(&self, wire: &mut Wire<I>, caller: &Caller) -> Result<Session, Fault>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let claimed = greet(wire).await.map_err(|error| match error {
            GreetError::Io(_) => Fault::Lost,
            GreetError::Wire(error) => Fault::broken("greeting", error.to_string()),
        })?;
        let admitted = self.join(claimed.as_str(), caller).await;
        let code = match &admitted {
            Ok(_) => Code::OK,
            Err(Fault::Denied(_)) => Code::ACCESS,
            Err(Fault::Full { .. } | Fault::InUse { .. } | Fault::Draining { .. }) => Code::BUSY,
            Err(_) => Code::OTHER,
        };
        answer(wire, code).await.map_err(|_| Fault::Lost)?;
        admitted
    }

    async fn join(&self, claimed: &str, caller: &Caller) -> Result<Session, Fault> {
        let (hall, config) = (&self.hall, &self.config);
        let peer = caller.peer();
        if hall.leash.is_draining() {
            return Err(hall.draining());
        }
        let rights = hall.judge.rights(peer)?;
        let name = BusName::collector(peer.id().site(), peer.id().name());
        let is_own = name.as_ref().is_ok_and(|name| name.as_str() == claimed);
        if config.claimed_name == ClaimedName::Refuse && !is_own {
            tracing::debug!(peer = %peer.id(), claimed = %claimed.escape_debug(), "client claims a name that is not its own");
            return Err(Fault::Denied(crate::policy::Denial::Collector));
        }
        let presence = hall.registry.admit(Guest::Greeting, peer.id())?;
        let same_identity = rights.limits().same_identity;
        let by = Claimant::Session { bell: Arc::default(), same_identity };
        let claim = hall.registry.claim(peer.id(), &[], by, hall.config.takeover_timeout).await?;
        let arrival = self.arrival(&rights, caller, claimed);
        let seat = hall.registry.seat(arrival, &[], claim)?;
        drop(presence);
        if !hall.judge.is_current(&rights) {
            // The policy changed before the registry knew whom to tell.
            seat.bell.ring(Order::Rejudge);
        }
        let speaker = rights.speaker("")?;
        let (voice, listening) = match hall.bus.attach(speaker.collector(), config.inbox).await {
            Ok((voice, listening)) => (voice, Some(listening)),
            // Where all have one name it can speak, but nobody can address it.
            Err(OpenError::Nameless) => (hall.bus.open(speaker.collector()).await?, None),
            Err(error) => return Err(error.into()),
        };
        let uplink = Uplink::new(Parts {
            limits: *rights.limits(),
            max_payload: max_payload(hall.config.max_payload, &rights),
            speaker,
            meter: hall.judge.meter(peer.id()),
            window: Window::new(Arc::clone(&hall.budget)),
            voice,
            tally: hall.metrics.tally(),
            live: Arc::clone(&seat.live),
            cut: caller.cut().clone(),
        });
        Ok(Session {
            hears: Hears::new(listening),
            uplink,
            who: hall.metrics.who(rights.label(), peer.id().site()),
            rights,
            calls: Ledger::new(config.max_calls, config.call_budget),
            subscriptions: Subscriptions::default(),
            seat,
            hall: Arc::clone(hall),
            config: Arc::clone(config),
            settled: Vec::new(),
            held: None,
            interrupted: false,
        })
    }

    fn arrival(&self, rights: &Rights, caller: &Caller, claimed: &str) -> Arrival {
        let peer = caller.peer();
        // Shown as what it calls itself, bounded by the greeting, escaped by whoever shows it.
        Arrival {
            peer: peer.id().clone(),
            address: caller.remote().to_string(),
            transport: "native",
            software: format!("busrt ({})", claimed.escape_debug()),
            certificate: Arc::new(Certificate::of("client", peer.certificate())),
            expires: peer.not_after().into(),
            roles: rights.roles(),
            label: rights.label(),
            heartbeat: self.config.timeout,
            connections: usize::try_from(rights.limits().connections.get()).unwrap_or(usize::MAX),
        }
    }
}

/// Bytes of one payload: what the configuration allows, and the policy.
pub(super) fn max_payload(configured: usize, rights: &Rights) -> usize {
    configured.min(usize::try_from(rights.limits().max_message.get()).unwrap_or(usize::MAX))
}
