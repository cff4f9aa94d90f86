//! `onsale keys`: rotates the secret that every key is derived from.

use clap::{Args, Subcommand};
use platform::config::listed_secret;
use platform::tokens::{KeyRing, MIN_SECRET_CHARS};
use secrecy::{ExposeSecret, SecretString};

use crate::say;

#[derive(Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Make a new secret, and print how to roll it out
    Rotate {
        /// The current secrets; the first signs
        #[arg(
            long = "secret",
            env = "ONSALE_SECRET",
            hide_env_values = true,
            value_delimiter = ',',
            value_parser = listed_secret,
            value_name = "SECRET"
        )]
        secrets: Vec<SecretString>,
    },
}

pub(crate) fn run(args: KeysArgs) -> anyhow::Result<()> {
    let KeysCommand::Rotate { secrets } = args.command;
    if !secrets.is_empty() {
        // A secret that is refused now would verify nothing later.
        KeyRing::new(&secrets)?;
    }
    let value = rotated(&new_secret(&rand::random()), &secrets);
    say(format_args!("ONSALE_SECRET={value}"));
    say(ROLL_OUT);
    Ok(())
}

const ROLL_OUT: &str = "
# 1. Give every process this value in place of the current one, and restart them one by one.
#    The new secret signs, all verify: nobody has to sign in, join or claim again.
#    Processes that are not restarted yet refuse what the new secret signed. During a sale, first
#    restart all with the current secrets and the new one after them, then with this value.
# 2. /.well-known/jwks.json has a key for each. Sites that verify passes find the new one.
# 3. An old secret still verifies the tickets that were sold under it. Drop it when the last event
#    sold under it is over: before, scanners without a network would refuse those tickets.
#    Queue tokens last a day longer than their sale, and names in a lobby's lottery until its draw.
#    Drop a secret that has leaked at once, and check those tickets in online.";

/// The new secret before the current ones, which still verify.
fn rotated(new: &str, secrets: &[SecretString]) -> String {
    let old = secrets.iter().map(ExposeSecret::expose_secret);
    std::iter::once(new)
        .chain(old)
        .collect::<Vec<_>>()
        .join(",")
}

fn new_secret(random: &[u8; 32]) -> String {
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    debug_assert!(secret.len() >= MIN_SECRET_CHARS);
    secret
}

#[cfg(test)]
mod tests {
    use domain::{EventId, SeatId};
    use platform::tokens::{PublishedKeys, TicketFace};

    use super::*;

    #[test]
    fn the_new_secret_goes_first_and_none_is_dropped() {
        let secrets = ["current".into(), "oldest".into()];
        assert_eq!(rotated("new", &secrets), "new,current,oldest");
        assert_eq!(rotated("new", &[]), "new");
    }

    #[test]
    fn a_ticket_sold_before_two_rotations_verifies_offline_after_them() {
        let old: SecretString = "a secret that is longer than 32 characters".into();
        let face = TicketFace {
            event_id: EventId(7),
            seat_id: SeatId(1),
            nonce: [9; 16],
        };
        let code = KeyRing::new(std::slice::from_ref(&old))
            .unwrap()
            .sign_ticket(face);
        let mut secrets = vec![old];
        for seed in [7, 8] {
            let value = rotated(&new_secret(&[seed; 32]), &secrets);
            secrets = value.split(',').map(Into::into).collect();
        }
        let published = KeyRing::new(&secrets).unwrap().jwks().to_string();
        let published = PublishedKeys::parse(published.as_bytes()).unwrap();
        assert_eq!(published.verify_ticket(&code).unwrap(), face);
    }
}
