//! The BUS/RT wire.
