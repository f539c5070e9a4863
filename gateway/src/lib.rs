//! The DaemonEye federation gateway: mutual TLS from remote collectors on one side, a local BUS/RT bus on the other.
//!
//! ```text
//!  socket        handshake       name           talk           ask          act
//! ┌──────────┐  ┌─────────┐  ┌──────────┐  ┌───────────┐  ┌──────────┐  ┌───────┐
//! │ listener │─►│   tls   │─►│ identity │─►│  session  │─►│  policy  │─►│  bus  │─► busrt
//! └──────────┘  └─────────┘  └──────────┘  └───────────┘  └──────────┘  └───────┘
//!   Accepted      Secured    VerifiedPeer      Frame      Permit/Denial   Ticket
//! ```

pub mod listener;

pub mod tls;

pub mod identity;

pub mod ingress;

pub mod deny;

pub mod held;

pub mod session;

pub mod policy;

pub mod bus;

pub mod upstream;

pub mod state;

pub mod snapshot;

pub mod telemetry;

pub mod admin;

pub mod config;

pub mod app;

pub mod pki;

pub mod demo;

pub mod trial;
