//! Files that others renew while the edge runs: certificates, CAs of clients and their revocation lists, secrets, keys, tokens
//! taken back. They are read again when they change; what was in use before stays in use until what is there can be taken.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use trishula::identity::live::{ReloadableCert, Reloaded};
use trishula::metrics;
use trishula::rt::clock;

use super::expiry;
use super::secured::Secured;
use crate::prepare::Prepared;
use crate::stamp::{Stamp, stamp};
use crate::trust::Watched;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The files of all services.
#[derive(Debug, Clone, Default)]
pub struct Renewed(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    certificates: Vec<Shown>,
    trusts: Vec<Watched>,
}

/// A service's TLS, and how the files of its certificate were when they were read last.
#[derive(Debug)]
struct Shown {
    service: String,
    tls: Arc<Secured>,
    seen: [Stamp; 2],
    /// When it ends; `None`: nobody can say.
    end: Option<OffsetDateTime>,
    /// Days until then, as they were told last.
    days: Option<i64>,
    /// When the revocation lists of clients' certificates ended, if that was told.
    lists_ended: Option<OffsetDateTime>,
}

impl Renewed {
    /// Looks after the files of a service from now on. Those of its earlier configuration count on for as long as there are
    /// sessions that go by them.
    pub fn add(&self, prepared: &Prepared) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let service = prepared.section.name.to_string();
        files.certificates.retain(|shown| shown.service != service);
        if let Some(tls) = &prepared.tls {
            files.certificates.push(Shown::new(service, tls.clone()));
        }
        files.trusts.retain(|watched| Arc::strong_count(&watched.own) > 1);
        files.trusts.extend(prepared.trust.clone());
    }

    /// Reads what has changed, or all of it `anyway`.
    pub fn look(&self, anyway: bool) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.certificates.iter_mut().for_each(|shown| shown.look(anyway));
        files.trusts.iter_mut().for_each(|watched| watched.look(anyway));
    }

    /// Looks from time to time.
    pub async fn follow(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look(false);
        }
    }
}

impl Shown {
    fn new(service: String, tls: Arc<Secured>) -> Shown {
        let (seen, end) = (stamps(tls.certificate()), expiry::end_of(tls.certificate().paths().0));
        let mut shown = Shown { service, tls, seen, end, days: None, lists_ended: None };
        shown.tell_days();
        shown
    }

    fn look(&mut self, anyway: bool) {
        self.renew(anyway);
        self.renew_clients(anyway);
        self.tell_days();
        self.tell_lists();
    }

    /// A list that has ended counts on, and says nothing of what was taken back since.
    fn tell_lists(&mut self) {
        let now = OffsetDateTime::from(clock::wall());
        let ended = self.tls.lists_until().filter(|until| *until <= now);
        if let Some(since) = ended.filter(|_| ended != self.lists_ended) {
            let service = self.service.as_str();
            let remedy = "put the CA's newest list into crl_file; the edge takes it by itself";
            tracing::error!(service, %since, remedy, "a revocation list of clients' certificates has ended, and counts on");
        }
        self.lists_ended = ended;
    }

    /// Shows how many days are left; of few it warns, at the start and then once a day.
    fn tell_days(&mut self) {
        let days = self.end.map(expiry::days_until);
        if days == self.days {
            return;
        }
        self.days = days;
        let Some(days) = days else { return };
        let service = self.service.as_str();
        metrics::CERTIFICATE_DAYS.with_label_values(&[service]).set(days);
        let (path, remedy) = (self.tls.certificate().paths().0.display().to_string(), expiry::REMEDY);
        if days < 0 {
            tracing::error!(
                service,
                path,
                days,
                remedy,
                "the certificate has ended: clients that verify it are lost"
            );
        } else if days < expiry::WARNING_DAYS {
            tracing::warn!(service, path, days, remedy, "the certificate ends soon");
        }
    }

    fn renew(&mut self, anyway: bool) {
        let now = stamps(self.tls.certificate());
        if !anyway && now == self.seen {
            return;
        }
        self.seen = now;
        let service = self.service.as_str();
        let path = self.tls.certificate().paths().0.display().to_string();
        let outcome = match self.tls.certificate().reload() {
            Ok(Reloaded::Unchanged) => return,
            Ok(Reloaded::Changed { now, not_after, .. }) => {
                tracing::info!(service, path, fingerprint = %now, %not_after, "a renewed certificate is in use");
                self.end = Some(not_after);
                "ok"
            }
            Err(e) => {
                tracing::warn!(service, path, error = %e, "the certificate could not be read again; the one before stays in use");
                "refused"
            }
        };
        metrics::CERTIFICATE_RELOADS.with_label_values(&[service, outcome]).inc();
    }

    /// Whose certificates are taken.
    fn renew_clients(&self, anyway: bool) {
        let service = self.service.as_str();
        let outcome = match self.tls.look(anyway) {
            Ok(false) => return,
            Ok(true) => {
                tracing::info!(service, "whose certificates are taken from clients was read again");
                "ok"
            }
            Err(e) => {
                tracing::error!(service, error = %e, "whose certificates are taken from clients stays as it was");
                "refused"
            }
        };
        metrics::CERTIFICATE_RELOADS.with_label_values(&[service, outcome]).inc();
    }
}

fn stamps(certificate: &ReloadableCert) -> [Stamp; 2] {
    let (certificate, key) = certificate.paths();
    [certificate, key].map(stamp)
}
