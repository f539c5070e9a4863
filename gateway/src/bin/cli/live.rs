//! `policy try`, `apply` and `shadow`: what is done with a policy at a running gateway.

use std::{fs, path::Path, process::ExitCode};

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, number, printable, table, text_of},
};

/// Tries a policy against those who are connected.
pub(crate) fn dry_run(file: Option<&Path>, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    let wish = match file {
        Some(file) => json!({ "policy": read(file)? }),
        None => json!({}),
    };
    format.show(&gateway.post("policy/try", &wish)?, impact)?;
    Ok(ExitCode::SUCCESS)
}

fn impact(impact: &Value) -> String {
    let cut: Vec<_> = list(impact, "cut").map(|cut| cells(cut, &["identity", "reason"])).collect();
    let told = format!(
        "would cut {} of {} connected, and change what {} may do\n",
        cut.len(),
        number(impact, "connected"),
        number(impact, "changed")
    );
    if cut.is_empty() { told } else { told + &table(&["CUT", "WHY"], cut) }
}

/// Puts the gateway's policy file in force.
pub(crate) fn apply(force: bool, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    let done = gateway.post("policy/apply", &json!({ "force": force }))?;
    format.show(&done, |done| table(&["OUTCOME", "DETAIL"], vec![cells(done, &["outcome", "detail"])]))?;
    let refused = text_of(&done, "outcome") == "refused";
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Begins, ends or shows the shadow.
pub(crate) fn shadow(what: &Path, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    let answer = match what.to_str() {
        Some("show") => gateway.get("policy/shadow")?,
        Some("off") => gateway.post("policy/shadow", &json!({ "policy": null }))?,
        _ => gateway.post("policy/shadow", &json!({ "policy": read(what)? }))?,
    };
    format.show(&answer, shown)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(answer: &Value) -> String {
    let Some(shadow) = answer.get("shadow").filter(|shadow| !shadow.is_null()) else {
        return "no policy is judged beside the one in force\n".to_owned();
    };
    let [since, by] = ["since", "by"].map(|key| printable(text_of(shadow, key)));
    let rows: Vec<_> = list(shadow, "differences")
        .map(|each| {
            let mut row = cells(each, &["identity", "verb", "object", "shadow"]);
            row.push(number(each, "count").to_string());
            row
        })
        .collect();
    let others = number(shadow, "others");
    let head = format!("beside the policy in force since {since}, for {by}\n");
    if rows.is_empty() {
        return head + "nothing would have been decided otherwise\n";
    }
    head + &table(&["IDENTITY", "VERB", "OBJECT", "WOULD", "TIMES"], rows) + &format!("{others} others\n")
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("could not read the policy {}", file.display()))
}
