//! The subcommands, one file each, and what they share: the way to a gateway and the way to the terminal.
//!
//! Kept true: nothing that came from a gateway reaches the terminal but through [`output`], because names and reasons may be
//! a stranger's.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod client;
pub(crate) mod output;

mod audit;
mod certs;
mod collectors;
mod command;
mod deny;
mod health;
mod leaf;
mod live;
mod pki;
mod policy;
mod refusals;
mod reload;
mod tls;
mod token;
mod transport;

use client::Gateway;
use output::Format;

/// Asks a `DaemonEye` federation gateway how it is.
#[derive(Debug, Parser)]
#[command(name = "daemoneye-cli", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    gateway: Gateway,
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Looks whether the record of changes is whole.
    Audit(audit::Audit),
    /// Shows each component's health; the exit code is that of the worst.
    Health {
        /// From which word on the exit code is not 0 (3 degraded, 4 unhealthy).
        #[arg(long, value_name = "WORD", value_enum, default_value_t)]
        fail_on: health::FailOn,
    },
    /// Shows who is connected, and who was.
    Collectors,
    /// Shows every certificate that the gateway knows of, and what expires when.
    Certs(certs::Certs),
    /// Holds messages for collectors that are not here.
    #[command(name = "command")]
    Hold(command::Commands),
    /// Says who may not be here, whatever his certificate says.
    Deny(deny::Deny),
    /// Looks at a leaf, the bridge beside remote collectors.
    Leaf(leaf::Leaf),
    /// Keeps a small PKI for development in a folder; it is no substitute for a real CA.
    ///
    /// Its keys lie unencrypted beside what they sign, nobody approves what is issued, and nothing is logged. For production
    /// use a CA that your organisation runs: step-ca, Vault, cert-manager, SPIRE, AD CS.
    Pki(pki::Pki),
    /// Tries a policy before it is in force, and tells which line decides.
    Policy(policy::Policies),
    /// Shows who was refused, why, and what to do about it.
    Refusals,
    /// Has certificates, revocation lists and policy read again.
    Reload(reload::Reload),
    /// Looks at certificates offline.
    Tls(tls::Tls),
    /// Makes tokens with which changes may be asked for over the network.
    Token(token::Token),
    /// Shows, tries and chooses the ways that messages take.
    Transport(transport::Transport),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    ///
    /// What was tried and did not work, for people.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { gateway, format, command } = self;
        match command {
            Command::Health { fail_on } => health::run(&gateway, fail_on, format),
            Command::Audit(audit) => audit.run(format),
            Command::Certs(certs) => certs.run(&gateway, format),
            Command::Collectors => collectors::run(&gateway, format),
            Command::Hold(commands) => commands.run(&gateway, format),
            Command::Deny(deny) => deny.run(&gateway, format),
            Command::Leaf(leaf) => leaf.run(format),
            Command::Pki(pki) => pki.run(format),
            Command::Policy(policies) => policies.run(&gateway, format),
            Command::Refusals => refusals::run(&gateway, format),
            Command::Reload(reload) => reload.run(&gateway, format),
            Command::Tls(tls) => tls.run(format),
            Command::Token(token) => token.run(format),
            Command::Transport(transport) => transport.run(&gateway, format),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// What stands in the documents of none of `command` and those below it.
    fn missing(command: &clap::Command, path: &str, documents: &str) -> Vec<String> {
        let below: Vec<_> = command.get_subcommands().filter(|each| each.get_name() != "help").collect();
        let named = |text: &str| {
            documents.match_indices(text).any(|(at, _)| {
                let after = documents.get(at + text.len()..).and_then(|rest| rest.chars().next());
                after.is_none_or(|after| !after.is_alphanumeric() && after != '-')
            })
        };
        let mut missing = Vec::new();
        if below.is_empty() && !named(path) {
            missing.push(path.to_owned());
        }
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        let options = options.filter_map(|option| option.get_long()).map(|long| format!("--{long}"));
        missing.extend(options.filter(|option| !named(option)).map(|option| format!("{path} {option}")));
        for each in below {
            missing.extend(self::missing(each, format!("{path} {}", each.get_name()).trim(), documents));
        }
        missing
    }

    #[test]
    fn the_documents_name_every_command_and_option() {
        let documents =
            [include_str!("../../../../docs/cli.md"), include_str!("../../../../docs/transports.md")];
        let found = missing(&Cli::command(), "", &documents.concat());
        assert!(found.is_empty(), "docs/cli.md lacks {found:#?}");
    }
}
