//! How a TOML file becomes a Config.
