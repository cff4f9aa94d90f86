//! `onsale keys`: the secret that every key is derived from.

use clap::{Args, Subcommand};
use platform::tokens::{KeyRing, MIN_SECRET_CHARS};
use secrecy::{ExposeSecret as _, SecretString};

use crate::say;

#[derive(Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Make a new secret, and say how to roll it out
    Rotate {
        /// The secrets of now; the first signs
        #[arg(
            long = "secret",
            env = "ONSALE_SECRET",
            hide_env_values = true,
            value_delimiter = ',',
            value_name = "SECRET"
        )]
        secrets: Vec<SecretString>,
    },
}

/// Runs one command.
pub(crate) fn run(args: KeysArgs) -> anyhow::Result<()> {
    let KeysCommand::Rotate { secrets } = args.command;
    if !secrets.is_empty() {
        // What does not work now would not verify later.
        KeyRing::new(&secrets)?;
    }
    let value = rotated(&new_secret(&rand::random()), &secrets);
    say(format_args!("ONSALE_SECRET={value}"));
    say(ROLL_OUT);
    Ok(())
}

const ROLL_OUT: &str = "
# 1. Give every process this value, as it gets the one of now, and restart them one by one.
#    The new secret signs, both verify: nobody has to sign in, join or claim again.
#    While some are not restarted they refuse what the new secret signed. During a sale, first
#    restart all with the two secrets in the other order, then with this one.
# 2. /.well-known/jwks.json shows two keys. Sites that verify passes find the new one themselves.
# 3. A day after the last restart, drop the second secret and restart again.";

/// The new secret and the one that signs now; an older one has nothing left to verify.
fn rotated(new: &str, secrets: &[SecretString]) -> String {
    secrets.first().map_or_else(
        || new.to_owned(),
        |current| format!("{new},{}", current.expose_secret()),
    )
}

fn new_secret(random: &[u8; 32]) -> String {
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    debug_assert!(secret.len() >= MIN_SECRET_CHARS);
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_secret_goes_first_and_the_oldest_is_dropped() {
        let secrets = ["current".into(), "oldest".into()];
        assert_eq!(rotated("new", &secrets), "new,current");
        assert_eq!(rotated("new", &[]), "new");
    }

    #[test]
    fn the_printed_value_is_a_key_ring_that_verifies_what_the_old_one_signed() {
        let old: SecretString = "a secret that is longer than 32 characters".into();
        let value = rotated(&new_secret(&[7; 32]), &[old]);
        let secrets: Vec<SecretString> = value.split(',').map(Into::into).collect();
        let keys = KeyRing::new(&secrets).unwrap().jwks();
        assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    }
}
