//! What all connections of a frontend share.

use crate::numbers::SessionNumbers;
use crate::options::FrontendOptions;
use crate::registry::Registry;
use crate::spool::Spool;
use crate::stats::{FrontendStats, count};
use crate::throttle::{Counted, Failures, Use, counted};
use parliament_ids::AccountId;
use parliament_mail_api::{Answer, Call, Directory, Identity, LoginError, MailService, Unserved};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// A login that is refused unasked is refused after this time.
const THROTTLED_WAIT: Duration = Duration::from_secs(1);

/// A login that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub error: LoginError,
    /// The client should hear of it after this time only.
    pub wait: Duration,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Running,
    /// No new connections; LMTP sessions end between messages.
    Draining,
    /// Every session is told goodbye.
    Closing,
}

/// One user's connection from one address.
pub(crate) type UserUse = Use<(AccountId, IpAddr)>;

pub(crate) struct Shared {
    pub(crate) options: FrontendOptions,
    pub(crate) service: Arc<dyn MailService>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) stats: Arc<FrontendStats>,
    pub(crate) registry: Registry,
    pub(crate) numbers: SessionNumbers,
    pub(crate) spool: Arc<Spool>,
    pub(crate) lmtp: Arc<parliament_lmtp::Settings>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) by_address: Arc<Counted<IpAddr>>,
    pub(crate) total: Arc<Counted<()>>,
    by_user: Arc<Counted<(AccountId, IpAddr)>>,
    failures: Failures,
    epoch: Instant,
}

impl Shared {
    pub(crate) fn new(options: FrontendOptions, service: Arc<dyn MailService>, directory: Arc<dyn Directory>) -> std::io::Result<Self> {
        let stats = Arc::new(FrontendStats::default());
        let lmtp = parliament_lmtp::Settings {
            host: options.host.clone(),
            message_bytes_max: options.message_bytes_max,
            add_headers: options.lmtp_add_headers,
            starttls: options.certificates.is_some(),
        };
        Ok(Self {
            spool: Spool::open(&options.spool_dir, options.spool_bytes_max, Arc::clone(&stats))?,
            numbers: SessionNumbers::new(options.node, options.boot),
            by_address: Counted::new(options.connections_per_address_max),
            total: Counted::new(options.connections_max),
            by_user: Counted::new(options.connections_per_user_and_address_max),
            phase: watch::Sender::new(Phase::Running),
            registry: Registry::default(),
            failures: Failures::default(),
            epoch: Instant::now(),
            lmtp: Arc::new(lmtp),
            options,
            service,
            directory,
            stats,
        })
    }

    /// Carries out a request and counts it.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, Unserved> {
        count(&self.stats.calls, 1);
        let result = self.service.call(call).await;
        if result.is_err() {
            count(&self.stats.calls_unserved, 1);
        }
        result
    }

    /// Checks a password and takes one of the user's connections. A refusal is slower after each failure.
    pub(crate) async fn login(&self, name: &str, password: &str, address: IpAddr) -> Result<(Identity, UserUse), LoginError> {
        match self.verify(name, password, address).await {
            Ok(identity) => {
                let Some(held) = self.by_user.take((identity.account, counted(address))) else {
                    count(&self.stats.logins_throttled, 1);
                    return Err(LoginError::Unavailable);
                };
                count(&self.stats.logins_accepted, 1);
                Ok((identity, held))
            }
            Err(refusal) => {
                tokio::time::sleep(refusal.wait).await;
                Err(refusal.error)
            }
        }
    }

    /// Checks a password; not at all after many failures.
    pub(crate) async fn verify(&self, name: &str, password: &str, address: IpAddr) -> Result<Identity, Refusal> {
        if !self.failures.may_try(address, name, Instant::now()) {
            count(&self.stats.logins_throttled, 1);
            return Err(Refusal { error: LoginError::Throttled, wait: THROTTLED_WAIT });
        }
        match self.directory.login(name, password, address).await {
            // Many guesses at once may all have begun before the first failed; one that is right wins nothing by that.
            Ok(_) if !self.failures.may_try(address, name, Instant::now()) => {
                count(&self.stats.logins_throttled, 1);
                Err(Refusal { error: LoginError::Throttled, wait: Duration::ZERO })
            }
            Ok(identity) => {
                self.failures.succeeded(address, name);
                Ok(identity)
            }
            Err(LoginError::Refused) => {
                count(&self.stats.logins_refused, 1);
                Err(Refusal { error: LoginError::Refused, wait: self.failures.failed(address, name, Instant::now()) })
            }
            Err(error) => {
                let throttled = error == LoginError::Throttled;
                count(if throttled { &self.stats.logins_throttled } else { &self.stats.logins_unavailable }, 1);
                Err(Refusal { error, wait: Duration::ZERO })
            }
        }
    }

    /// Milliseconds of a clock that never goes back.
    pub(crate) fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Seconds since 1970 UTC.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Waits until a stop has come at least as far as `phase`.
pub(crate) async fn phase_reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    if phases.wait_for(|now| *now >= phase).await.is_err() {
        // The frontend itself is gone, which is further than any phase.
    }
}
