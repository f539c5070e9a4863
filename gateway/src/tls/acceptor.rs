//! The handshake of one connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use daemoneye_bridge::trust::{
    Admission, Judge, LoadError, Recorder, RefusalReason, Store, Terms, VerifiedChain,
};
use rustls::{Error, PeerIncompatible, pki_types::CertificateDer};
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    listener::{Accepted, Paid, Place},
    snapshot::{self, Part},
    tls::{Config, Metrics, Refusal, Stage, material, metrics::Outcome, pace::Pace},
};

/// How long each step of a handshake may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From acceptance to the whole greeting.
    pub greeting: Duration,
    /// From the slot for the handshake to its end.
    pub handshake: Duration,
    /// From acceptance to the end, the wait for a slot included.
    pub whole: Duration,
}

/// What is spoken beside HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// BUS/RT, with who offers it.
    pub native: bool,
    /// BUS/RT, with who offers nothing.
    pub without_alpn: bool,
}

/// What a secured connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// BUS/RT.
    BusRt,
    /// HTTP/2, for gRPC.
    Http2,
}

/// Secures connections with the material in force.
#[derive(Clone, Debug)]
pub struct Acceptor {
    store: Store,
    /// Whether BUS/RT is spoken with who offers no protocol.
    without_alpn: bool,
    terms: Terms,
    deadlines: Deadlines,
    reload_interval: Duration,
    metrics: Metrics,
    pace: Pace,
}

impl Acceptor {
    /// Loads the material; a handshake may take as long as `deadlines` say, and `judge` has the last word on each chain. Blocking: it reads
    /// files. Needs a runtime.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the file and a remedy.
    pub fn load(
        (config, offer): (Config, Offer),
        deadlines: Deadlines,
        judge: Arc<dyn Judge>,
        metrics: Metrics,
    ) -> Result<Self, LoadError> {
        let Config { floor, reload_interval, .. } = config;
        let profile = config.profile.clone();
        let store = Store::open_all(config.into_plan())?;
        let mut protocols = vec![H2.to_vec()];
        if offer.native {
            protocols.push(BUSRT.to_vec());
        }
        let terms = Terms { protocols, floor, profile, judge };
        let without_alpn = offer.without_alpn;
        Ok(Self { store, without_alpn, terms, deadlines, reload_interval, metrics, pace: Pace::of_runtime() })
    }

    /// The material, to reload it on request.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// On which terms connections are accepted.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What is shown of the material, and the future that follows its files. It never ends.
    pub fn follow(&self) -> (Part<snapshot::Material>, impl Future<Output = ()> + Send + 'static) {
        material::follow(self.store.clone(), self.reload_interval, self.metrics.clone())
    }

    /// Secures one connection.
    ///
    /// # Errors
    ///
    /// [`Refusal`], with what the stranger presented. The stranger was sent an alert, or nothing.
    pub async fn handshake(&self, accepted: Accepted) -> Result<Secured, Refusal> {
        let begun = Instant::now();
        let (tcp, remote, standing) = accepted.into_parts();
        let mut stage = Progress::default();
        let shaking = self.shake(tcp, &standing.place, &mut stage);
        let shaken = tokio::select! {
            biased;
            // A place that is wanted back is wanted back at once.
            () = standing.place.evicted() => Err(Failure::Crowded),
            shaken = time::timeout_at(begun + self.deadlines.whole, shaking) =>
                shaken.unwrap_or(Err(Failure::TimedOut)),
        };
        let ended = shaken.and_then(|stream| stage.outcome().map(|chain| (stream, chain)));
        let outcome = match &ended {
            Ok(_) => Outcome::Accepted,
            Err(Failure::TimedOut) => Outcome::TimedOut,
            Err(_) => Outcome::Refused,
        };
        self.metrics.handshake(outcome, begun.elapsed());
        match ended {
            Ok((stream, chain)) => {
                let paid = standing.proven();
                Ok(Secured { stream, chain, remote, recorder: stage.recorder, paid })
            }
            Err(failure) => Err(stage.refusal(&failure, remote)),
        }
    }

    async fn shake(
        &self,
        tcp: TcpStream,
        place: &Place,
        stage: &mut Progress,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let Deadlines { greeting, handshake, .. } = self.deadlines;
        let start = within(greeting, async {
            // Whoever says nothing costs no buffer.
            tcp.readable().await?;
            LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await
        });
        let start = start.await?;
        place.slot().await;
        let (settings, recorder) = Admission::new(self.store.current(), self.terms.clone()).handshake();
        stage.recorder = Some(recorder);
        let stream = within(handshake, self.pace.keep(start.into_stream(settings))).await?;
        // A client that offers no protocol at all is let through by rustls.
        match stream.get_ref().1.alpn_protocol() {
            Some(H2 | BUSRT) => Ok(stream),
            None if self.without_alpn => Ok(stream),
            _ => {
                Err(Failure::Broken(io::Error::new(io::ErrorKind::InvalidData, Error::NoApplicationProtocol)))
            }
        }
    }
}

async fn within<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    time::timeout(patience, step).await.map_err(|_elapsed| Failure::TimedOut)?.map_err(Failure::Broken)
}

/// HTTP/2, for gRPC.
const H2: &[u8] = b"h2";

/// BUS/RT, version 1.
const BUSRT: &[u8] = b"busrt/1";

/// How far a handshake came.
#[derive(Debug, Default)]
struct Progress {
    /// Made when the greeting is there.
    recorder: Option<Arc<Recorder>>,
}

/// Why a handshake failed.
#[derive(Debug)]
enum Failure {
    Broken(io::Error),
    Crowded,
    Judged(RefusalReason),
    TimedOut,
}

impl Progress {
    fn outcome(&self) -> Result<Arc<VerifiedChain>, Failure> {
        let recorder = self.recorder.as_ref().ok_or(Failure::Judged(RefusalReason::NoCertificate))?;
        recorder.outcome().map_err(Failure::Judged)
    }

    fn refusal(self, failure: &Failure, remote: SocketAddr) -> Refusal {
        let reason = self.reason(failure);
        let detail = match failure {
            Failure::Broken(error) => error.to_string(),
            Failure::Crowded => "pushed out by newer connections".to_owned(),
            Failure::Judged(reason) => reason.to_string(),
            Failure::TimedOut => match self.recorder {
                None => "sent no TLS greeting in time".to_owned(),
                Some(_) => "stopped in the middle of the handshake".to_owned(),
            },
        };
        let detail = self.found(reason).unwrap_or(detail);
        let stage = match reason {
            RefusalReason::AmbiguousIdentity
            | RefusalReason::AnchorNotForDomain
            | RefusalReason::AnchorNotForSite
            | RefusalReason::BadName
            | RefusalReason::Denied
            | RefusalReason::NoIdentity => Stage::Identity,
            RefusalReason::Crowded => Stage::Listener,
            _ => Stage::Tls,
        };
        Refusal { stage, reason, detail, remote, recorder: self.recorder, proven: None }
    }

    /// What exactly is wrong, if it was the certificate.
    fn found(&self, reason: RefusalReason) -> Option<String> {
        let finding = self.recorder.as_ref()?.finding().filter(|finding| finding.reason() == reason)?;
        Some(finding.detail().to_owned())
    }

    fn reason(&self, failure: &Failure) -> RefusalReason {
        let error = match failure {
            Failure::Broken(error) => error,
            Failure::Crowded => return RefusalReason::Crowded,
            Failure::Judged(reason) => return *reason,
            Failure::TimedOut => return RefusalReason::TimedOut,
        };
        let presented = self.recorder.as_ref().filter(|recorder| recorder.presented().is_some());
        match presented.map(|recorder| recorder.outcome()) {
            // It was the certificate, whatever the wire says.
            Some(Err(reason)) if reason != RefusalReason::Aborted => return reason,
            _ => {}
        }
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        match tls {
            Some(Error::NoCertificatesPresented) => RefusalReason::NoCertificate,
            Some(Error::PeerIncompatible(why)) => incompatible(why),
            Some(Error::NoApplicationProtocol) => RefusalReason::Incompatible,
            // Before the greeting is there, whatever it is, it is not TLS.
            _ if self.recorder.is_none() => RefusalReason::NotTls,
            Some(Error::AlertReceived(_)) | None => RefusalReason::Aborted,
            Some(_) => RefusalReason::Misbehaved,
        }
    }
}

/// What it was that a client does not speak.
const fn incompatible(why: &PeerIncompatible) -> RefusalReason {
    use PeerIncompatible as P;
    match why {
        P::SupportedVersionsExtensionRequired | P::Tls12NotOffered | P::Tls12NotOfferedOrEnabled => {
            RefusalReason::TlsVersion
        }
        P::EcPointsExtensionRequired
        | P::NamedGroupsExtensionRequired
        | P::NoCipherSuitesInCommon
        | P::NoEcPointFormatsInCommon
        | P::NoKxGroupsInCommon
        | P::UncompressedEcPointsRequired => RefusalReason::TlsSuite,
        P::ExtendedMasterSecretExtensionRequired => RefusalReason::TlsMasterSecret,
        _ => RefusalReason::Incompatible,
    }
}

/// A connection whose peer was verified. It has no name yet.
#[derive(Debug)]
pub struct Secured {
    stream: TlsStream<TcpStream>,
    chain: Arc<VerifiedChain>,
    remote: SocketAddr,
    recorder: Option<Arc<Recorder>>,
    paid: Paid,
}

impl Secured {
    /// What it speaks: what was agreed on, and BUS/RT with who offered nothing and was let through.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self.stream.get_ref().1.alpn_protocol() {
            Some(H2) => Protocol::Http2,
            _ => Protocol::BusRt,
        }
    }

    /// What the peer proved to be.
    #[must_use]
    pub const fn chain(&self) -> &Arc<VerifiedChain> {
        &self.chain
    }

    /// What it presented, leaf first.
    #[must_use]
    pub fn presented(&self) -> Vec<CertificateDer<'static>> {
        let presented = self.recorder.as_ref().and_then(|recorder| recorder.presented());
        presented.map(|presented| presented.chain.clone()).unwrap_or_default()
    }

    /// Gives back what it has paid to be here. Whoever is not let in for coming too often is not told this: proving who one
    /// is again and again costs as much as a stranger's attempts.
    pub fn repay(&mut self) {
        std::mem::take(&mut self.paid).give_back();
    }

    /// The stream, and where it comes from.
    #[must_use]
    pub fn into_parts(self) -> (TlsStream<TcpStream>, SocketAddr) {
        (self.stream, self.remote)
    }

    /// Accounts for turning it away after all.
    #[must_use]
    pub fn refuse(&self, stage: Stage, reason: RefusalReason, detail: String) -> Refusal {
        let recorder = self.recorder.clone();
        Refusal { stage, reason, detail, remote: self.remote, recorder, proven: None }
    }
}
