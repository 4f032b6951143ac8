//! Whether somebody wants what was shown.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, bail};

/// Asks a person, unless `yes` has answered before.
///
/// # Errors
/// Nobody can be asked, or the answer is not yes.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("nothing was changed: nobody can be asked here (standard input is no terminal); add --yes");
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("asking")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("reading the answer")?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}
