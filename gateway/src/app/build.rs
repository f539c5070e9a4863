//! Makes the stages out of their settings, each once, in the order in which they need one another.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc};

use daemoneye_bridge::{
    bus::{Bus, door::DoorError},
    lifecycle::Lifecycle,
    trust::{LoadError, Material, Role},
};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin, Commands, token::Tokens},
    app::{
        Addresses, Gateway, Reception, descriptors, grpc, local::Local, memory, orders::Orders, record,
        reload, transports, upward::Upward, views,
    },
    bus::{self, AuthorizedBus},
    config::{Config, Drain},
    deny, held,
    ingress::{self, Ingress},
    policy::{self, Judge, Policy, PolicyError, command::Desk},
    session::{
        self, Sessions, Stages,
        http2::Server,
        leash::{Grounds, Roll},
    },
    snapshot::{BusView, Clients, Part, Refusals as Refused, Snapshots, StateView, Timestamp},
    state::{
        self, State, StateError,
        audit::{Audit, AuditError},
    },
    telemetry::metrics::{Metrics, Vitals},
    tls::{Acceptor, Refusals},
    upstream,
};

/// What the stages count, one each.
struct Counts {
    ingress: ingress::Metrics,
    session: session::Metrics,
    policy: policy::Metrics,
    kept: (state::Metrics, held::Metrics),
}

impl Counts {
    fn register(metrics: &mut Metrics) -> Self {
        Self {
            ingress: ingress::Metrics::register(metrics.registry()),
            session: session::Metrics::register(metrics.registry()),
            policy: policy::Metrics::register(metrics.registry()),
            kept: (state::Metrics::register(metrics.registry()), held::Metrics::register(metrics.registry())),
        }
    }
}

/// Tasks in the order of their end.
#[derive(Default)]
pub(super) struct Tasks {
    /// End by themselves once sessions are told to leave.
    pub(super) front: Vec<BoxFuture<'static, ()>>,
    /// Never end by themselves.
    pub(super) endless: Vec<BoxFuture<'static, ()>>,
    /// End when nobody uses what they keep.
    pub(super) back: Vec<BoxFuture<'static, ()>>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { front, endless, back } = self;
        f.debug_struct("Tasks")
            .field("front", &front.len())
            .field("endless", &endless.len())
            .field("back", &back.len())
            .finish()
    }
}

/// Loads and judges everything that can be without taking a port, a socket or a file that a running gateway has.
pub(super) fn check(config: &Config) -> Result<Summary, BindError> {
    let material = Material::load_all(&config.tcp.tls.clone().into_plan())?;
    let policy = Policy::load(&config.policy.file)?;
    if let Some(upstream) = &config.upstream {
        Material::load(&upstream.uplink.files, Role::Client).map_err(upstream::OpenError::from)?;
    }
    if let Some(file) = &config.admin.token_file {
        Tokens::load(file).map_err(admin::BindError::from)?;
    }
    Ok(Summary {
        certificate: material.leaf().subject().to_owned(),
        not_after: material.leaf().not_after().into(),
        anchors: material.anchors().len(),
        roles: policy.roles(),
        collectors: config.tcp.listener.bind_address,
        admin: config.admin.bind_address,
    })
}

/// What a configuration amounts to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Subject of the gateway's certificate.
    pub certificate: String,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// How many authorities may issue collectors' certificates.
    pub anchors: usize,
    /// Roles of the policy.
    pub roles: Vec<String>,
    /// Where collectors are heard.
    pub collectors: SocketAddr,
    /// Where the admin API is.
    pub admin: SocketAddr,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate, not_after, anchors, roles, collectors, admin } = self;
        writeln!(f, "  collectors   {collectors}")?;
        writeln!(f, "  admin        http://{admin}/")?;
        writeln!(f, "  certificate  {certificate}, until {not_after}")?;
        writeln!(f, "  authorities  {anchors}")?;
        write!(f, "  roles        {}", roles.join(", "))
    }
}

/// Makes and binds every stage; nothing moves yet.
pub(super) async fn bind(mut config: Config, given: Option<Arc<dyn Bus>>) -> Result<Gateway, BindError> {
    memory::take_small_pages();
    descriptors::make_room(&mut config)?;
    let front = Lifecycle::new();
    let (mut metrics, mut tasks) = (Metrics::default(), Tasks::default());
    let counts = Counts::register(&mut metrics);

    let seen = reload::look(&config.policy.file);
    let judge = Judge::new(Policy::load(&config.policy.file)?, counts.policy);
    let (refusals, refused, keep) = Refusals::open(counts.ingress.tls().clone());
    tasks.endless.extend([reload::policy(judge.clone(), config.policy.file.clone(), seen).boxed(), keep]);
    let (denials, denied) = watch::channel(Arc::default());
    let places = (config.tcp.limits.connections.get(), config.unix_socket.max_connections.get());
    let (tcp, identity) = (config.tcp, config.identity);
    let native = tcp.native.clone();
    let ingress = Ingress::open(tcp, identity, denied.clone(), refusals.clone(), &counts.ingress)?;
    let admin = Admin::bind(config.admin).await?;
    let Kept { state, audit, deny, held } = keep_state(config.state, counts.kept, denials, &mut tasks)?;
    let roll = leash((ingress.tls(), denied, judge.clone()), &audit, &counts.session, &mut tasks);
    let desk = Desk::new(judge.clone(), config.policy.file);
    let orders = Orders { store: ingress.tls().store().clone(), policy: desk, audit: audit.clone() };
    let commands = commands((deny.clone(), held.clone()), orders, &mut tasks);
    let (local, carriers) = Local::open(given, &config.bus, config.in_process, config.unix_socket)?;
    tasks.back.extend(carriers);
    let upward = config.upstream.map(|upstream| Upward::open(upstream, local.bus())).transpose()?;
    let stages = Stages {
        judge: judge.clone(),
        bus: authorized(&local, config.bus, upward.as_ref()),
        state: state.clone(),
        held,
        leash: front.leash(),
        drain: leaving(&config.drain),
        metrics: counts.session.clone(),
    };
    let last_call = CancellationToken::new();
    let (sessions, server) = converse(config.session, stages, (&front, &local), &mut tasks)?;
    let server = server.last_call(last_call.clone());
    let native = sessions.native(native, last_call.clone());

    metrics.vitals(vitals(&front, &local));
    let (who, kept) = ((&front, &sessions, &judge), (&state, &audit));
    let shown = (who, (&ingress, &local, kept), (upward.as_ref(), refused, places));
    let snapshots = snapshots(shown, &counts.session, &mut metrics, &mut tasks);
    Ok(Gateway {
        addresses: addresses(&ingress, &admin, &local),
        front,
        drain: config.drain,
        ingress,
        reception: Reception { server, native, roll, judge, refusals, metrics: counts.session },
        deny,
        audit,
        last_call,
        local,
        upward,
        state,
        admin,
        snapshots,
        exporter: metrics.exporter(),
        commands,
        tasks,
    })
}

/// The conversations, and what speaks HTTP/2 with peers.
fn converse(
    config: session::Config,
    stages: Stages,
    (front, local): (&Lifecycle, &Local),
    tasks: &mut Tasks,
) -> Result<(Sessions, Server), BindError> {
    let http2 = config.http2.clone();
    let (sessions, registry) = Sessions::new(config, stages);
    tasks.front.push(registry);
    let (routes, reporter) = grpc::add(sessions.routes())?;
    tasks.front.push(grpc::report(reporter, front.watch(), local.bus().state(), front.leash()).boxed());
    let server = Server::new(http2, routes, front.leash(), front.leash().drain_token());
    Ok((sessions, server))
}

/// What outlives a restart.
struct Kept {
    state: State,
    audit: Audit,
    deny: deny::Handle,
    held: held::Handle,
}

/// Opens what outlives a restart, and puts the deny-list in force on `denials`.
fn keep_state(
    config: state::Config,
    (metrics, held): (state::Metrics, held::Metrics),
    denials: watch::Sender<Arc<deny::Denials>>,
    tasks: &mut Tasks,
) -> Result<Kept, BindError> {
    let directory = config.directory.clone();
    let (state, flusher) = State::open(config, metrics)?;
    tasks.back.push(flusher);
    let audit = Audit::open(&directory)?;
    tasks.endless.push(audit.clone().watch().boxed());
    let deny = deny::Handle::open(state.clone(), audit.clone(), denials)?;
    let held = held::Handle::open(state.clone(), audit.clone(), held)?;
    tasks.endless.push(held.clone().run().boxed());
    Ok(Kept { state, audit, deny, held })
}

/// What live connections hang on; what is judged by, and changes, is recorded.
fn leash(
    (tls, denials, policy): (&Acceptor, watch::Receiver<Arc<deny::Denials>>, Judge),
    audit: &Audit,
    metrics: &session::Metrics,
    tasks: &mut Tasks,
) -> Roll {
    let (material, terms) = (tls.store().watch(), tls.terms().clone());
    let grounds = Grounds { material, denials, policy, terms };
    let record = record::changes(audit.clone(), grounds.material.clone(), grounds.policy.view());
    let (roll, keep) = Roll::new(grounds, metrics.clone());
    tls.store().ask_first(Arc::new(roll.clone()));
    tasks.endless.extend([record.boxed(), keep]);
    roll
}

/// What operators may ask for, and the task that does it.
fn commands((deny, held): (deny::Handle, held::Handle), orders: Orders, tasks: &mut Tasks) -> Commands {
    let (reload, asked) = Orders::channel();
    let policy = orders.policy.clone();
    tasks.endless.push(orders.serve(asked).boxed());
    Commands { deny, held, policy, reload }
}

/// The bus as sessions have it.
fn authorized(local: &Local, config: bus::Config, upward: Option<&Upward>) -> AuthorizedBus {
    let patience = config.patience();
    AuthorizedBus::relaying(
        local.bus(),
        config.routes,
        patience,
        upward.map(|upward| upward.upstream().relay()),
    )
}

/// How sessions are sent away.
fn leaving(drain: &Drain) -> session::Drain {
    session::Drain { spread: drain.spread, grace: drain.grace(), alternatives: drain.alternatives.clone() }
}

fn vitals(front: &Lifecycle, local: &Local) -> Vitals {
    let bus = local.bus();
    Vitals { phase: front.watch(), bus: bus.state(), counters: bus.counters() }
}

/// Parts of the snapshot that are made here, and kept so by tasks.
fn views(local: &Local, state: &State, tasks: &mut Tasks) -> (Part<BusView>, Part<Clients>, Part<StateView>) {
    let word = local.word();
    let (bus, follow_bus) = views::mirror(local.bus().state(), move |state| views::bus(word, state));
    let (state, follow_state) = views::mirror(state.health(), views::state);
    let (clients, follow_clients) = views::mirror(local.clients(), views::clients);
    tasks.endless.extend([follow_bus.boxed(), follow_clients.boxed(), follow_state.boxed()]);
    (bus, clients, state)
}

type Shown<'a> = (
    (&'a Lifecycle, &'a Sessions, &'a Judge),
    (&'a Ingress, &'a Local, (&'a State, &'a Audit)),
    (Option<&'a Upward>, Part<Refused>, (usize, usize)),
);

/// All that may be shown; so many may come in over mutual TLS, and through the door.
fn snapshots(
    ((front, sessions, judge), (ingress, local, (state, audit)), (upward, refusals, places)): Shown<'_>,
    counted: &session::Metrics,
    metrics: &mut Metrics,
    tasks: &mut Tasks,
) -> Snapshots {
    let (material, follow) = ingress.tls().follow();
    tasks.endless.push(follow.boxed());
    let (bus, clients, state) = views(local, state, tasks);
    let (audit, follow) = views::mirror(audit.trouble(), Option::clone);
    tasks.endless.push(follow.boxed());
    let (upstream, follow) = upward.map(|upward| upward.show(metrics)).unzip();
    tasks.endless.extend(follow);
    let (phase, collectors, policy) = (front.watch(), sessions.view(), judge.view());
    let who = (counted, &collectors, &refusals);
    let transports = transports::open((local, ingress, places), who, metrics, tasks);
    Snapshots {
        phase,
        collectors,
        refusals,
        bus,
        clients,
        material,
        policy,
        state,
        audit,
        upstream,
        transports,
    }
}

fn addresses(ingress: &Ingress, admin: &Admin, local: &Local) -> Addresses {
    Addresses {
        collectors: ingress.local(),
        admin: admin.address(),
        probes: admin.probe_address(),
        bus: local.socket().map(Path::to_owned),
    }
}

/// Why the gateway cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    /// The audit.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The deny-list.
    #[error(transparent)]
    Deny(#[from] deny::OpenError),
    /// The held commands.
    #[error(transparent)]
    Held(#[from] held::OpenError),
    /// Too few descriptors for anything.
    #[error(
        "could not make room for connections: {limit} file descriptors are fewer than the {least} it takes; raise the limit (LimitNOFILE, ulimit -n)"
    )]
    Descriptors {
        /// What this process may have.
        limit: usize,
        /// What it needs.
        least: usize,
    },
    /// The door for local clients.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The way in: port or certificates.
    #[error(transparent)]
    Ingress(#[from] ingress::OpenError),
    /// The certificates.
    #[error(transparent)]
    Material(#[from] LoadError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The descriptors in this build.
    #[error("could not serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
    /// The way to a gateway above.
    #[error(transparent)]
    Upstream(#[from] upstream::OpenError),
}

impl BindError {
    /// Whether what is wrong stands in a file of the operator, so that starting again is of no use.
    #[must_use]
    pub const fn is_of_configuration(&self) -> bool {
        matches!(self, Self::Material(_) | Self::Policy(_) | Self::Ingress(ingress::OpenError::Load(_)))
            || matches!(
                self,
                Self::Door(DoorError::TooLong { .. } | DoorError::NeverSentAway)
                    | Self::Admin(admin::BindError::Tokens(_))
                    | Self::Upstream(upstream::OpenError::Uplink(_))
            )
    }
}
