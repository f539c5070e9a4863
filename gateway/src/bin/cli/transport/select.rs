//! `transport select`: three questions, one answer. What no flag says is asked, if somebody is there to be asked.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use daemoneye_gateway::trial::select::{Need, System, Where, advise};
use serde_json::Value;

use crate::cli::output::{Format, WIDTH, list, printable, text_of, wrap};

/// What is known.
#[derive(Clone, Debug, Args)]
pub(super) struct Select {
    /// Both ends are in one process.
    #[arg(long, group = "place")]
    same_process: bool,
    /// Both ends are on one host.
    #[arg(long, group = "place")]
    same_host: bool,
    /// The ends are on hosts of their own.
    #[arg(long, group = "place")]
    remote: bool,
    /// What the producing end runs on; what this runs on, if not said.
    #[arg(long, value_enum)]
    os: Option<Os>,
    /// What the producer wants to know of its events; that a broker has them, if not said.
    #[arg(long, value_enum)]
    confirm: Option<Confirm>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Os {
    Linux,
    Macos,
    Windows,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Confirm {
    /// That a live broker has them.
    Bus,
    /// Nothing.
    None,
    /// That every subscriber has taken them.
    Subscriber,
}

impl Select {
    pub(super) fn run(&self, format: Format) -> anyhow::Result<ExitCode> {
        let asks = !(self.same_process || self.same_host || self.remote);
        if asks && !io::stdin().is_terminal() {
            bail!("where are the two ends? say --same-process, --same-host or --remote");
        }
        let place = match (self.same_process, self.same_host, self.remote) {
            (true, ..) => Where::SameProcess,
            (_, true, _) => Where::SameHost,
            (.., true) => Where::Remote,
            _ if yes("Are both ends in the same process?")? => Where::SameProcess,
            _ if yes("On the same host?")? => Where::SameHost,
            _ => Where::Remote,
        };
        let system = match self.os {
            Some(Os::Windows) => System::Windows,
            None if asks && place == Where::SameHost && yes("Does it run Windows?")? => System::Windows,
            Some(Os::Linux | Os::Macos) | None => System::Unix,
        };
        let need = match self.confirm {
            Some(Confirm::None) => Need::None,
            Some(Confirm::Subscriber) => Need::Subscriber,
            None if asks
                && yes("Must every subscriber have an event before its producer may forget it?")? =>
            {
                Need::Subscriber
            }
            Some(Confirm::Bus) | None => Need::Bus,
        };
        let advice = serde_json::to_value(advise(place, system, need)).context("could not write JSON")?;
        format.show(&advice, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn text(advice: &Value) -> String {
    let path: Vec<&str> = list(advice, "path").filter_map(Value::as_str).collect();
    let path = path.join(" → ");
    let rows = [
        ("use", text_of(advice, "transport")),
        ("because", &path),
        ("why", text_of(advice, "why")),
        ("how", text_of(advice, "how")),
        ("confirmation", text_of(advice, "confirmation")),
        ("try it", text_of(advice, "try_it")),
    ];
    let line = |(index, head, line): (usize, &str, String)| {
        let head = if index == 0 { head } else { "" };
        format!("{head:<INDENT$}{line}\n")
    };
    let lines = rows.into_iter().flat_map(|(head, said)| {
        let lines = wrap(&printable(said), WIDTH - INDENT).into_iter().enumerate();
        lines.map(move |(index, text)| (index, head, text))
    });
    lines.map(line).collect()
}

const INDENT: usize = 14;

fn yes(question: &str) -> anyhow::Result<bool> {
    let mut line = String::new();
    for _ in 0..PATIENCE {
        write!(io::stderr(), "{question} [y/n] ").context("could not ask")?;
        line.clear();
        if io::stdin().lock().read_line(&mut line).context("could not read an answer")? == 0 {
            break;
        }
        match line.trim() {
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => {}
        }
    }
    bail!(
        "no answer to \"{question}\"; say it with --same-process, --same-host or --remote, --os and --confirm"
    )
}

/// How often a question is asked.
const PATIENCE: usize = 3;
