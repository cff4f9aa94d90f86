//! Passwords as Argon2id hashes (OWASP: 19 MiB, 2 passes, 1 lane).

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use platform::problem::{Kind, Problem};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;

use crate::fields::invalid;

/// Fewest and most characters of a password.
const LENGTH: std::ops::RangeInclusive<usize> = 10..=200;
/// What a caller who had to wait too long is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why a password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many others are being hashed.
    #[error("too many passwords are being hashed")]
    Busy,
    /// The hash could not be computed, or a stored one not be read.
    #[error("the password could not be hashed: {0}")]
    Hash(argon2::password_hash::Error),
    /// The thread that hashed it ended early.
    #[error("the hashing thread failed")]
    Thread(#[from] tokio::task::JoinError),
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => {
                let detail = "Too many people sign in this moment; try again in a moment.";
                Self::new(Kind::Overloaded, detail).retry_after(RETRY_AFTER)
            }
            other => Self::internal(&other),
        }
    }
}

/// A password of an allowed length.
///
/// # Errors
/// `invalid`, naming `password`.
pub(crate) fn check_length(password: &SecretString) -> Result<(), Problem> {
    if LENGTH.contains(&password.expose_secret().chars().count()) {
        return Ok(());
    }
    let detail = format!("{} to {} characters.", LENGTH.start(), LENGTH.end());
    Err(invalid("password", detail))
}

/// Hashes and checks passwords, as many at once as the machine has cores: each takes a core and
/// 19 MiB for some tens of milliseconds.
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
    wait: Duration,
    decoy: String,
}

impl Passwords {
    /// Ready to hash; `wait` is how long a caller may wait for a free core.
    ///
    /// # Errors
    /// When hashing does not work on this machine.
    pub(crate) async fn start(wait: Duration) -> Result<Self, PasswordError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let decoy = tokio::task::spawn_blocking(|| hash("nobody's password")).await??;
        Ok(Self {
            permits: Arc::new(Semaphore::new(cores)),
            wait,
            decoy,
        })
    }

    /// The hash to store, in PHC string format.
    ///
    /// # Errors
    /// When no core gets free in time.
    pub(crate) async fn hash(&self, password: SecretString) -> Result<String, PasswordError> {
        self.run(move || hash(password.expose_secret())).await
    }

    /// Whether `password` is the one that was hashed to `stored`. Without a hash the answer is no,
    /// after the same work, so that the time does not tell which addresses have an account.
    ///
    /// # Errors
    /// When no core gets free in time, or `stored` is not a hash.
    pub(crate) async fn verify(
        &self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        let is_known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let is_equal = self
            .run(move || verify(password.expose_secret(), &stored))
            .await?;
        Ok(is_known && is_equal)
    }

    /// Runs `work` on a core of its own. The permit goes along, so that a caller who hangs up
    /// frees it no earlier than the core.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = tokio::time::timeout(self.wait, permit)
            .await
            .map_err(|_| PasswordError::Busy)?
            .expect("the semaphore is never closed");
        tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(permit);
            outcome
        })
        .await?
    }
}

/// The hash of `password` with a random salt. `Argon2::default()` is Argon2id with the parameters
/// above.
pub(crate) fn hash(password: &str) -> Result<String, PasswordError> {
    let hash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

fn verify(password: &str, stored: &str) -> Result<bool, PasswordError> {
    use argon2::password_hash::Error;
    let stored =
        PasswordHash::new(stored).map_err(|_| PasswordError::Hash(Error::EncodingInvalid))?;
    match Argon2::default().verify_password(password.as_bytes(), &stored) {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(other) => Err(PasswordError::Hash(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_argon2id_with_the_recommended_cost() {
        let stored = hash("correct horse").unwrap();
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        assert_ne!(stored, hash("correct horse").unwrap());
    }

    #[tokio::test]
    async fn only_the_right_password_verifies_and_a_missing_hash_never_does() {
        let passwords = Passwords::start(Duration::from_secs(10)).await.unwrap();
        let stored = passwords.hash("correct horse".into()).await.unwrap();
        assert!(
            passwords
                .verify("correct horse".into(), Some(stored.clone()))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("wrong horse".into(), Some(stored))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("nobody's password".into(), None)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn a_caller_waits_no_longer_than_allowed() {
        let passwords = Passwords::start(Duration::from_millis(20)).await.unwrap();
        let all = u32::try_from(passwords.permits.available_permits()).unwrap();
        let _taken = passwords.permits.acquire_many(all).await.unwrap();
        let outcome = passwords.hash("correct horse".into()).await;
        assert!(matches!(outcome, Err(PasswordError::Busy)));
    }
}
