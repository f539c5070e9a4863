//! Chains, handshakes and reloads, with authorities made at run time.

mod handshake;
mod loading;
mod pki;
