//! Services that share a port: what tells them apart.

use std::net::SocketAddr;

use super::service::{DialectName, ServiceSection};

/// The key at fault, and why.
pub(super) fn check(services: &[ServiceSection], taken: &[SocketAddr]) -> Result<(), (String, String)> {
    for (at, service) in services.iter().enumerate() {
        let fault = |key: &str, why: String| Err((format!("service {}: {key}", service.name), why));
        for (place, listen) in service.listen.iter().enumerate() {
            if listen.port() == 0 {
                continue;
            }
            if taken.contains(listen) || service.listen[..place].contains(listen) {
                return fault("listen", format!("{listen} is used twice; name it once"));
            }
            let Some(other) = services[..at].iter().find(|other| other.listen.contains(listen)) else {
                continue;
            };
            if service.proxy != other.proxy {
                let why = format!(
                    "{listen} is {}'s too, and before one port there are the same proxies; give both the same proxy",
                    other.name
                );
                return fault("proxy", why);
            }
            // A handshake names its host, and says nothing of what will be spoken.
            let unnamed = service.names.is_empty() && other.names.is_empty();
            if unnamed && service.policy() != other.policy() {
                let why = format!(
                    "{listen} is {}'s too, and where no name tells two services apart their clients are asked for the same \
                     certificates; give one of them names",
                    other.name
                );
                return fault("ca_file", why);
            }
            if service.tls != other.tls {
                let why = format!(
                    "{listen} is {}'s too, and one of the two has it off; give both the same",
                    other.name
                );
                return fault("tls", why);
            }
        }
        for other in &services[..at] {
            let shared = service.listen.iter().find(|at| at.port() != 0 && other.listen.contains(at));
            if let Some(listen) = shared.filter(|_| !told_apart(service, other)) {
                let why = format!(
                    "{listen} is used twice, and nothing tells {} and {} apart: give them names, or dialects that \
                     the first frame tells apart",
                    other.name, service.name
                );
                return fault("listen", why);
            }
        }
    }
    Ok(())
}

/// By name, or else by what their clients speak.
fn told_apart(one: &ServiceSection, other: &ServiceSection) -> bool {
    if one.names.iter().any(|name| other.is_called(name)) {
        return false;
    }
    let by_name = one.names.is_empty() != other.names.is_empty() || !one.names.is_empty();
    let any = [one.dialect, other.dialect].contains(&DialectName::Auto);
    by_name || (!any && one.dialect != other.dialect)
}
