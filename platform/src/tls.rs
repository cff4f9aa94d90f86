//! The private certificate authorities of `ONSALE_CA_FILE`, which every outgoing TLS connection of
//! the process trusts besides the web's: a company's servers mostly have certificates of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::config::InvalidConfig;

/// The environment variable that names the file, also for commands without a configuration.
const CA_FILE: &str = "ONSALE_CA_FILE";

static AUTHORITIES: OnceLock<Authorities> = OnceLock::new();
/// Used by commands that never call [`trust`]; a file that can't be read is reported by those that
/// do.
static OF_ENVIRONMENT: LazyLock<Option<Authorities>> =
    LazyLock::new(|| read(None).unwrap_or_default());

/// Certificates of authorities.
#[derive(Debug)]
struct Authorities {
    file: PathBuf,
    pem: String,
}

/// Has the certificates in `file`, PEM, trusted by every connection of the process, once; without
/// a file the one that `ONSALE_CA_FILE` names.
///
/// # Errors
/// When the file can't be read or has no certificate.
pub fn trust(file: Option<&Path>) -> Result<(), InvalidConfig> {
    if AUTHORITIES.get().is_none()
        && let Some(read) = read(file)?
    {
        // Another thread may have read the same meanwhile.
        let _ = AUTHORITIES.set(read);
    }
    Ok(())
}

fn read(file: Option<&Path>) -> Result<Option<Authorities>, InvalidConfig> {
    let named = std::env::var_os(CA_FILE).map(PathBuf::from);
    let Some(file) = file.map(Path::to_owned).or(named) else {
        return Ok(None);
    };
    let shown = file.display();
    let pem = std::fs::read_to_string(&file)
        .map_err(|error| InvalidConfig::new(format!("{CA_FILE}: can't read {shown}: {error}")))?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(InvalidConfig::new(format!(
            "{CA_FILE}: {shown} has no certificate in PEM format"
        )));
    }
    Ok(Some(Authorities { file, pem }))
}

/// The trusted certificates, PEM.
#[must_use]
pub fn authorities() -> Option<&'static str> {
    current().map(|authorities| authorities.pem.as_str())
}

/// The file that has them.
#[must_use]
pub fn authorities_file() -> Option<&'static Path> {
    current().map(|authorities| authorities.file.as_path())
}

/// A client's TLS settings that trust the certificates besides the web's; `None` without any.
#[must_use]
pub fn client_config() -> Option<ClientConfig> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    for certificate in CertificateDer::pem_slice_iter(authorities()?.as_bytes()) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|der| roots.add(der).map_err(|error| error.to_string()));
        if let Err(error) = added {
            tracing::warn!(error, "a certificate of ONSALE_CA_FILE can't be used");
        }
    }
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .expect("ring has suites of every version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Some(config)
}

/// The certificates of every trusted authority, the web's included, PEM: for a client that replaces
/// its own by those it is given. `None` without private ones.
#[must_use]
pub fn all_authorities() -> Option<String> {
    authorities().map(with_the_webs)
}

fn with_the_webs(private: &str) -> String {
    let mut pem = format!("{private}\n");
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let base64 = BASE64.encode(certificate);
        pem += "-----BEGIN CERTIFICATE-----\n";
        for line in base64.as_bytes().chunks(64) {
            pem += std::str::from_utf8(line).expect("base64 is ASCII");
            pem += "\n";
        }
        pem += "-----END CERTIFICATE-----\n";
    }
    pem
}

fn current() -> Option<&'static Authorities> {
    AUTHORITIES.get().or_else(|| OF_ENVIRONMENT.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_authority_is_trusted_besides_all_of_the_webs() {
        let webs = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        let private = with_the_webs("")
            .lines()
            .skip(1)
            .take_while(|line| !line.starts_with("-----END"))
            .collect::<Vec<_>>()
            .join("\n")
            + "\n-----END CERTIFICATE-----";
        let pem = with_the_webs(&private);
        let mut roots = RootCertStore::empty();
        let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(Result::unwrap)
            .collect();
        assert_eq!(all.len(), webs.len() + 1);
        assert_eq!(all[1..], *webs);
        assert_eq!(roots.add_parsable_certificates(all), (webs.len() + 1, 0));
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_by_the_name_of_its_key() {
        for file in [
            "/nowhere/ca.pem",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ] {
            let error = read(Some(Path::new(file))).unwrap_err().to_string();
            assert!(error.starts_with("ONSALE_CA_FILE"), "{error}");
        }
    }
}
