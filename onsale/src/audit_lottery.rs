//! `onsale audit lottery`: checks offline that the order of a lobby was drawn as promised, from the
//! receipts of `GET /api/events/ID/queue/lottery` and the published keys alone.

mod check;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use platform::tokens::PublishedKeys;

use crate::say;
use check::{Checked, Receipt};

/// The receipts, keys and tokens to check.
#[derive(Args)]
pub(crate) struct AuditLotteryArgs {
    /// The answer of /api/events/ID/queue/lottery
    #[arg(long, value_name = "FILE")]
    receipts: PathBuf,
    /// The answer of /.well-known/jwks.json; without it anybody may have written the receipts
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// A queue token, whose place is printed and whose entry must be in the receipts
    #[arg(long = "token", value_name = "TOKEN")]
    tokens: Vec<String>,
}

/// Checks the receipts. The exit status is 1 when anything is not as promised.
pub(crate) fn run(args: &AuditLotteryArgs) -> anyhow::Result<ExitCode> {
    let keys = match &args.jwks {
        Some(path) => Some(
            PublishedKeys::parse(&read(path)?)
                .with_context(|| format!("reading the keys in {}", path.display()))?,
        ),
        None => None,
    };
    let outcome = Receipt::read(&read(&args.receipts)?, keys.as_ref())
        .and_then(Receipt::check)
        .map(|checked| (facts(&checked, keys.is_some()), checked));
    let (facts, checked) = match outcome {
        Ok(good) => good,
        Err(fault) => return fail(&fault),
    };
    for fact in facts {
        say(fact);
    }
    for token in &args.tokens {
        match checked.place_of(token) {
            Ok(place) => say(place),
            Err(fault) => return fail(&fault),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fail(fault: &check::Fault) -> anyhow::Result<ExitCode> {
    say(format_args!("NOT AS PROMISED: {fault}"));
    Ok(ExitCode::FAILURE)
}

fn facts(checked: &Checked, is_verified: bool) -> [String; 6] {
    let claims = &checked.claims;
    let signature = if is_verified {
        "signature: made with one of the published keys"
    } else {
        "signature: NOT CHECKED, give --jwks FILE"
    };
    let entropy = if claims.entropy_source.is_empty() {
        "entropy: none was announced".to_owned()
    } else {
        format!(
            "entropy: \"{}\", from: {}",
            claims.entropy, claims.entropy_source
        )
    };
    [
        signature.to_owned(),
        format!(
            "seed: matches the commitment {}, published since {}",
            claims.commitment, claims.committed_at
        ),
        format!(
            "entries: {} of the numbers 1 to {} were held, as fixed at {} by the digest {}",
            claims.entries, claims.lobby, claims.fixed_at, claims.entries_digest
        ),
        entropy,
        format!(
            "places: 1 to {} are each somebody's, by the seed and the entropy",
            claims.lobby
        ),
        "Compare commitment, source and digest with what you saw on the page before the opening."
            .to_owned(),
    ]
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("can't read {}", path.display()))
}
