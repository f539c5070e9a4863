//! `pki`: a small development PKI in a folder.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use daemoneye_gateway::pki::{Folder, Issued, Plan, Reason};
use serde_json::json;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::cli::output::{Format, printable, table};

/// What is to be done, and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct Pki {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Makes a root, an intermediate below it, and their revocation lists.
    Init(Init),
    /// Issues a certificate for a gateway or a collector.
    #[command(subcommand)]
    Issue(Issue),
    /// Issues a certificate with the same names and a new key in place of one; the old one stays valid until it is revoked.
    Renew {
        /// The folder of the PKI.
        folder: PathBuf,
        /// As `pki list` shows it: `gateway`, or `site-a/procmond-1`.
        name: String,
        #[command(flatten)]
        lifetime: Lifetime,
    },
    /// Revokes every certificate of a name, or the one with a serial number, and writes the lists.
    Revoke {
        /// The folder of the PKI.
        folder: PathBuf,
        /// A name or a serial number, as `pki list` shows them.
        what: String,
        /// Why: cessation-of-operation, key-compromise, superseded or unspecified.
        #[arg(long, default_value_t)]
        reason: Reason,
        #[command(flatten)]
        crl: CrlLifetime,
    },
    /// Writes new revocation lists with the next number, before the old ones run out.
    Crl {
        /// The folder of the PKI.
        folder: PathBuf,
        #[command(flatten)]
        crl: CrlLifetime,
    },
    /// Shows what was issued.
    List {
        /// The folder of the PKI.
        folder: PathBuf,
    },
}

#[derive(Clone, Debug, Args)]
struct Init {
    /// The folder; empty, or not there yet.
    folder: PathBuf,
    /// Beginning of the names of both authorities.
    #[arg(long, default_value = "DaemonEye development")]
    name: String,
    /// Trust domain of the collectors' SPIFFE URIs, as in the gateway's `[identity]`.
    #[arg(long, default_value = "daemoneye.internal")]
    trust_domain: String,
    /// Domain of the collectors' DNS names.
    #[arg(long, default_value = "collectors.daemoneye.internal")]
    dns_domain: String,
    #[command(flatten)]
    crl: CrlLifetime,
}

#[derive(Clone, Debug, Subcommand)]
enum Issue {
    /// For a gateway.
    Server {
        /// The folder of the PKI.
        folder: PathBuf,
        /// What it is called; its files are too.
        name: String,
        /// A DNS name that collectors dial; may be said more than once.
        #[arg(long)]
        dns: Vec<String>,
        /// An address that collectors dial; may be said more than once.
        #[arg(long)]
        ip: Vec<IpAddr>,
        #[command(flatten)]
        lifetime: Lifetime,
    },
    /// For a collector or a leaf.
    Collector {
        /// The folder of the PKI.
        folder: PathBuf,
        /// `<site>/<name>`, such as site-a/procmond-1.
        id: String,
        #[command(flatten)]
        lifetime: Lifetime,
    },
}

#[derive(Clone, Copy, Debug, Args)]
struct Lifetime {
    /// How long the certificate lasts.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
}

#[derive(Clone, Copy, Debug, Args)]
struct CrlLifetime {
    /// How long the revocation lists last; gateways may refuse older ones.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    crl_days: u16,
}

impl Lifetime {
    fn time(self) -> Duration {
        Duration::days(self.days.into())
    }
}

impl CrlLifetime {
    fn time(self) -> Duration {
        Duration::days(self.crl_days.into())
    }
}

impl Pki {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Init(init) => init.run(format)?,
            Command::Issue(issue) => issue.run(format)?,
            Command::Renew { folder, name, lifetime } => {
                tell_issued(format, &Folder::open(&folder)?.renew(&name, lifetime.time())?)?;
            }
            Command::Revoke { folder, what, reason, crl } => {
                let mut folder = Folder::open(&folder)?;
                let revoked = folder.revoke(&what, reason, crl.time())?;
                tell_lists(format, &folder, &format!("revoked {revoked} of `{what}`; "))?;
            }
            Command::Crl { folder, crl } => {
                let mut folder = Folder::open(&folder)?;
                folder.write_crls(crl.time())?;
                tell_lists(format, &folder, "")?;
            }
            Command::List { folder } => tell_all(format, &Folder::open(&folder)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Init {
    fn run(self, format: Format) -> anyhow::Result<()> {
        let plan = Plan { name: self.name, trust_domain: self.trust_domain, dns_domain: self.dns_domain };
        let folder = Folder::init(&self.folder, &plan, self.crl.time())?;
        let [anchor, crls] = [folder.anchor(), self.folder.join("crl")];
        format.show(
            &json!({"anchor": anchor, "crls": folder.crls(), "trust_domain": folder.trust_domain()}),
            |_| {
                let path = self.folder.display();
                let mut text = format!(
                    "made a PKI for development in {path}; its keys are not protected by a passphrase\n"
                );
                // Writing to a string does not fail.
                let _written = write!(
                    text,
                    "  ca_file       {}\n  revocation    {}\n  trust domain  {}\n\
                 now: daemoneye-cli pki issue server {path} gateway --dns localhost --ip 127.0.0.1\n     \
                 daemoneye-cli pki issue collector {path} site-a/procmond-1\n",
                    anchor.display(),
                    crls.display(),
                    folder.trust_domain(),
                );
                text
            },
        )
    }
}

impl Issue {
    fn run(self, format: Format) -> anyhow::Result<()> {
        let issued = match self {
            Self::Server { folder, name, dns, ip, lifetime } => {
                anyhow::ensure!(
                    !(dns.is_empty() && ip.is_empty()),
                    "collectors know a gateway by a name: say --dns or --ip, as in the address that they dial"
                );
                Folder::open(&folder)?.issue_server(&name, dns, ip, lifetime.time())?
            }
            Self::Collector { folder, id, lifetime } => {
                Folder::open(&folder)?.issue_collector(&id, lifetime.time())?
            }
        };
        tell_issued(format, &issued)
    }
}

fn tell_issued(format: Format, issued: &Issued) -> anyhow::Result<()> {
    let Issued { entry, files } = issued;
    let until = moment(entry.not_after);
    let value = json!({
        "serial": entry.serial, "name": entry.name, "not_after": until,
        "cert_file": files.certificate, "key_file": files.key,
    });
    format.show(&value, |_| {
        let name = printable(&entry.name);
        let (certificate, key) = (files.certificate.display(), files.key.display());
        format!(
            "issued {name} until {until}, serial {}\n  cert_file  {certificate}\n  key_file   {key}\n",
            entry.serial
        )
    })
}

fn tell_lists(format: Format, folder: &Folder, done: &str) -> anyhow::Result<()> {
    let crls = folder.crls();
    format.show(&json!({ "crls": crls }), |_| {
        let [root, issuer] = &crls;
        format!("{}wrote {} and {}\n", printable(done), root.display(), issuer.display())
    })
}

fn tell_all(format: Format, folder: &Folder) -> anyhow::Result<()> {
    let value = serde_json::to_value(folder.issued()).context("the index cannot be shown")?;
    format.show(&json!({ "issued": value }), |_| {
        let rows = folder.issued().iter().map(|entry| {
            let revoked = entry
                .revoked
                .map_or_else(String::new, |revoked| format!("{} {}", moment(revoked.at), revoked.reason));
            vec![
                entry.kind.to_string(),
                entry.name.clone(),
                moment(entry.not_after),
                entry.serial.clone(),
                revoked,
            ]
        });
        table(&["KIND", "NAME", "UNTIL", "SERIAL", "REVOKED"], rows.collect())
    })
}

fn moment(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}
