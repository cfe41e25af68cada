//! `auto_cert`: for development, a certificate of a CA that exists for nothing else. It is kept in files, so that who trusts
//! the CA once goes on after a restart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use trishula::identity::ca::Authority;
use trishula::identity::files::{self, Access};
use trishula::identity::info;
use trishula::identity::profile::Request;
use trishula::identity::{Error, Role};
use trishula::wire::ids::NodeName;

/// The folder, beside the configuration's identity.
pub const FOLDER: &str = "auto-cert";
const CA: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
/// One that ends sooner is replaced at the start.
const DAYS_LEFT: i64 = 2;

/// Where a certificate and its key are: those of an earlier start, or new ones.
///
/// # Errors
///
/// When they can't be written.
pub fn files(
    identity: &Path,
    service: &str,
    listen: &[SocketAddr],
    now: OffsetDateTime,
) -> Result<(PathBuf, PathBuf), Error> {
    let folder = identity.with_file_name(FOLDER).join(service);
    let (ca, certificate, key) = (folder.join(CA), folder.join(CERTIFICATE), folder.join(KEY));
    let shown = std::fs::read(&certificate).ok().and_then(|pem| info::describe(&pem, None, now).ok());
    if shown.is_none_or(|shown| shown.days_left < DAYS_LEFT) || !key.exists() {
        files::make_folder(&folder)?;
        let authority = Authority::create(&format!("development-{service}"), now)?;
        let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        ips.extend(
            listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).take(16),
        );
        ips.dedup();
        let role = Role::Edge(NodeName::new("development")?);
        let issued = authority.issue(&Request::public(role, vec!["localhost".into()], ips), now)?;
        files::write(&key, issued.key_pem.as_bytes(), Access::Private)?;
        files::write(&certificate, issued.chain_pem.as_bytes(), Access::Public)?;
        files::write(&ca, authority.certificate_pem().as_bytes(), Access::Public)?;
    }
    let ca = ca.display();
    tracing::warn!(
        service, %ca,
        "auto_cert: this certificate was made by this program and is for DEVELOPMENT ONLY; clients must be told to trust \
         the CA in this file, and its name is localhost; set cert and key for anything else"
    );
    Ok((certificate, key))
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn it_is_made_once_kept_and_made_anew_when_it_ends() {
        // covers B02
        let folder = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let made = |now| {
            let (certificate, _) = files(&folder.path().join("id"), "mahavishnu", &[], now).unwrap();
            std::fs::read_to_string(certificate).unwrap()
        };
        let first = made(now);
        assert_eq!(made(now + Duration::days(300)), first);
        assert_ne!(made(now + Duration::days(396)), first);
        assert!(folder.path().join("auto-cert/mahavishnu/ca.pem").exists());
    }
}
