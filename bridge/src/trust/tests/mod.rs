//! Chains, handshakes and reloads, with authorities made at run time.

mod forge;
mod handshake;
mod loading;
pub(in crate::trust) mod pki;
mod profile;
