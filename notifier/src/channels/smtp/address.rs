//! Parsing of `ONSALE_SMTP_URL`.

use std::fmt;
use std::net::IpAddr;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, TlsParameters};
use percent_encoding::percent_decode_str;
use platform::config::InvalidConfig;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

/// RFC 5321.
const SMTP_PORT: u16 = 25;
/// RFC 6409.
const SUBMISSION_PORT: u16 = 587;
/// RFC 8314.
const SUBMISSIONS_PORT: u16 = 465;

/// The mail server's address, TLS mode and credentials.
pub(crate) struct ServerAddress {
    pub(crate) host: String,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) credentials: Option<Credentials>,
}

/// TLS mode.
pub(super) enum Tls {
    /// Implicit TLS.
    FromTheStart(TlsParameters),
    /// Mandatory STARTTLS.
    Required(TlsParameters),
    /// Opportunistic STARTTLS, which an active attacker can strip.
    WhenOffered(TlsParameters),
    None,
}

impl ServerAddress {
    /// Parses the URL.
    ///
    /// # Errors
    /// When the URL is not valid. The message never contains the URL, which may hold a password.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, InvalidConfig> {
        let invalid = |what: &str| InvalidConfig::new(format!("ONSALE_SMTP_URL {what}"));
        let url = Url::parse(url.expose_secret()).map_err(|_| invalid("must be a URL"))?;
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => return Err(invalid("must name a host")),
        };
        let credentials = credentials(&url).map_err(invalid)?;
        let parameters = |is_opportunistic| {
            let mut tls = TlsParameters::builder(host.clone())
                // Opportunistic TLS to an unverified server is better than plaintext, but a
                // password must only reach the server itself.
                .dangerous_accept_invalid_certs(is_opportunistic && credentials.is_none());
            if let Some(pem) = platform::tls::authorities() {
                let authorities = Certificate::from_pem(pem.as_bytes())
                    .map_err(|error| InvalidConfig::new(format!("ONSALE_CA_FILE: {error}")))?;
                tls = tls.add_root_certificate(authorities);
            }
            tls.build()
                .map_err(|error| invalid(&format!("names a host that can't be used: {error}")))
        };
        let mode = url
            .query_pairs()
            .find(|(key, _)| key == "tls")
            .map(|(_, value)| value);
        let (tls, default_port) = match (url.scheme(), mode.as_deref()) {
            ("smtps", None) => (Tls::FromTheStart(parameters(false)?), SUBMISSIONS_PORT),
            ("smtp", Some("required")) => (Tls::Required(parameters(false)?), SUBMISSION_PORT),
            ("smtp", None) => (Tls::WhenOffered(parameters(true)?), SMTP_PORT),
            ("smtp", Some("none")) => (Tls::None, SMTP_PORT),
            _ => {
                return Err(invalid(
                    "must begin with smtps:// or smtp://; ?tls= may be required or none",
                ));
            }
        };
        let port = url.port().unwrap_or(default_port);
        Ok(Self {
            host,
            port,
            tls,
            credentials,
        })
    }
}

impl ServerAddress {
    /// Returns true if the server is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        let is_loopback = |host: &str| host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        self.host == "localhost" || is_loopback(&self.host)
    }
}

/// Decodes user and password; `None` if the URL has neither.
fn credentials(url: &Url) -> Result<Option<Credentials>, &'static str> {
    let decode = |text| match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err("has a name or password that is not UTF-8"),
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        (_, None) => Err("names a user without a password"),
        ("", Some(_)) => Err("has a password without a user"),
        (user, Some(password)) => Ok(Some(Credentials::new(decode(user)?, decode(password)?))),
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        f.debug_struct("ServerAddress")
            .field("host", host)
            .field("port", port)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ServerAddress, InvalidConfig> {
        ServerAddress::parse(&url.into())
    }

    #[test]
    fn tls_is_as_the_url_says() {
        let address = parse("smtps://mail.test").unwrap();
        assert!(matches!(
            (&address.tls, address.port),
            (Tls::FromTheStart(_), 465)
        ));
        let address = parse("smtp://mail.test?tls=required").unwrap();
        assert!(matches!(
            (&address.tls, address.port),
            (Tls::Required(_), 587)
        ));
        let address = parse("smtp://mail.test?tls=none").unwrap();
        assert!(matches!((&address.tls, address.port), (Tls::None, 25)));
        let address = parse("smtp://[::1]:2525").unwrap();
        assert!(matches!(
            (&address.tls, address.port),
            (Tls::WhenOffered(_), 2525)
        ));
        assert_eq!(address.host, "::1");
    }

    #[test]
    fn a_wrong_word_for_tls_does_not_switch_it_off() {
        assert!(parse("smtp://mail.test?tls=requierd").is_err());
    }

    #[test]
    fn credentials_are_decoded() {
        let address = parse("smtps://me%40mail.test:p%2Fss@mail.test").unwrap();
        let expected = Credentials::new("me@mail.test".into(), "p/ss".into());
        assert_eq!(address.credentials, Some(expected));
    }

    #[test]
    fn a_user_without_a_password_is_refused() {
        let error = parse("smtps://me@mail.test").unwrap_err().to_string();
        assert!(error.contains("without a password"), "{error}");
        assert!(parse("smtps://mail.test").unwrap().credentials.is_none());
    }

    #[test]
    fn a_url_that_is_refused_is_not_repeated() {
        let error = parse("http://me:hush@mail.test").unwrap_err().to_string();
        assert!(!error.contains("hush"), "{error}");
    }
}
