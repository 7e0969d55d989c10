//! Drives LMTP sessions.

use crate::connection::Connection;
use crate::deliver::{Source, deliver};
use crate::shared::{Phase, Shared, phase_reached, unix_now};
use crate::spool::SpoolFile;
use crate::stats::count;
use bytes::{Buf, Bytes};
use parliament_lmtp::{Answer, Body, Message, Output, Peer, Session, Wants};
use parliament_mail_api::{Reply, Unserved};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

struct Driver<'a> {
    shared: &'a Arc<Shared>,
    connection: &'a mut Connection,
    session: Session,
    spool: Option<SpoolFile>,
    /// What came in beyond what the session takes now.
    unread: Bytes,
}

/// Serves a connection to its end.
pub(crate) async fn serve(shared: &Arc<Shared>, connection: &mut Connection) -> io::Result<()> {
    let address = connection.remote.ip().to_canonical();
    let peer = Peer { address, session: connection.number.key(), tls: connection.tls, trusted: connection.trusted };
    let mut outputs = Vec::new();
    let session = Session::new(Arc::clone(&shared.lmtp), peer, &mut outputs);
    let mut driver = Driver { shared, connection, session, spool: None, unread: Bytes::new() };
    driver.run(outputs).await
}

impl Driver<'_> {
    async fn run(&mut self, mut outputs: Vec<Output>) -> io::Result<()> {
        loop {
            self.carry_out(std::mem::take(&mut outputs)).await?;
            if self.session.wants() != Wants::Bytes {
                return Ok(());
            }
            if self.unread.is_empty() && !self.wait_for_input(&mut outputs).await? {
                return Ok(());
            }
            let consumed = self.session.receive(&self.unread, unix_now(), &mut outputs);
            self.unread.advance(consumed);
            if self.unread.is_empty() {
                self.unread = Bytes::new();
            }
        }
    }

    /// Reads, or lets the session end for another reason, which then stands in `outputs`. False when the client has gone.
    async fn wait_for_input(&mut self, outputs: &mut Vec<Output>) -> io::Result<bool> {
        let idle = self.session.is_idle();
        self.connection.set_busy(!idle);
        let mut phases = self.shared.phase.subscribe();
        // A message that is coming in may end first while the node drains.
        let stop_at = if idle { Phase::Draining } else { Phase::Closing };
        let connection = &mut *self.connection;
        if !idle {
            connection.socket.acknowledge();
        }
        tokio::select! {
            biased;
            _ = connection.registered.kicked() => {
                count(&self.shared.stats.sessions_kicked, 1);
                self.session.shut_down(outputs);
            }
            () = phase_reached(&mut phases, stop_at) => self.session.shut_down(outputs),
            read = tokio::time::timeout(self.shared.options.lmtp_idle_timeout, connection.socket.read()) => match read {
                Ok(bytes) => {
                    self.unread = bytes?.into();
                    return Ok(!self.unread.is_empty());
                }
                Err(_) => self.session.time_out(outputs),
            },
        }
        Ok(true)
    }

    async fn carry_out(&mut self, outputs: Vec<Output>) -> io::Result<()> {
        let mut queue = VecDeque::from(outputs);
        let mut spool_failed = false;
        while let Some(output) = queue.pop_front() {
            let mut more = Vec::new();
            match output {
                Output::Send(bytes) => self.connection.socket.write_all(&bytes).await?,
                Output::Lookup { address } => {
                    let found = self.shared.directory.recipient(&address).await;
                    self.session.answer(Answer::Recipient(found), &mut more);
                }
                Output::Spool(_) if spool_failed => {}
                Output::Spool(bytes) => {
                    if let Err(error) = self.append(bytes).await {
                        tracing::warn!(%error, "spool");
                        spool_failed = true;
                        self.session.spool_failed(&mut more);
                    }
                }
                Output::DropSpool => self.spool = None,
                // Its spool is incomplete, and the session has answered for it.
                Output::Deliver(_) if spool_failed => self.spool = None,
                Output::Deliver(message) => self.deliver(message).await?,
                Output::Forwarded(told) => {
                    if !self.connection.forwarded(self.shared, &told) {
                        self.session.too_many(&mut more);
                    }
                }
                Output::StartTls => {
                    self.unread = Bytes::new();
                    self.connection.start_tls(self.shared).await?;
                    self.session.answer(Answer::TlsStarted, &mut more);
                }
                Output::Close => self.unread = Bytes::new(),
            }
            queue.extend(more);
        }
        Ok(())
    }

    async fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        let file = match &mut self.spool {
            Some(file) => file,
            none => none.insert(self.shared.spool.create(bytes.len() as u64).await?),
        };
        file.append(bytes).await
    }

    /// Delivers to several accounts at once; each reply goes out as soon as its turn has come. Deliveries go on when the
    /// client leaves: what was begun is finished, and a second try of the client's is recognised by its key.
    async fn deliver(&mut self, message: Message) -> io::Result<()> {
        let source = match (message.body, self.spool.take()) {
            (Body::Inline(bytes), _) => Source::Inline(bytes),
            (Body::Spooled { size, hash }, Some(file)) => Source::Spooled { file: Arc::new(file), size, hash },
            (Body::Spooled { .. }, None) => return Err(io::Error::other("a spooled message without a spool")),
        };
        let slots = Arc::new(Semaphore::new(self.shared.options.lmtp_parallel.max(1)));
        let mut tasks = JoinSet::new();
        for (index, account) in message.accounts.into_iter().enumerate() {
            let (shared, source, slots) = (Arc::clone(self.shared), source.clone(), Arc::clone(&slots));
            tasks.spawn(async move {
                let _slot = slots.acquire_owned().await;
                (index, deliver(&shared, account, source, message.dedupe).await)
            });
        }
        let told = self.tell_results(&mut tasks).await;
        tasks.detach_all();
        told
    }

    async fn tell_results(&mut self, tasks: &mut JoinSet<(usize, Result<parliament_mail_api::Answer, Unserved>)>) -> io::Result<()> {
        while let Some(joined) = tasks.join_next().await {
            let (index, result) = joined.map_err(io::Error::other)?;
            self.count_delivery(&result);
            let mut outputs = Vec::new();
            self.session.answer(Answer::Delivered { index, result }, &mut outputs);
            for output in outputs {
                if let Output::Send(bytes) = output {
                    self.connection.socket.write_all(&bytes).await?;
                }
            }
        }
        Ok(())
    }

    fn count_delivery(&self, result: &Result<parliament_mail_api::Answer, Unserved>) {
        let stats = &self.shared.stats;
        match result.as_ref().map(|answer| &answer.outcome) {
            Ok(Ok(reply)) => {
                count(&stats.lmtp_delivered, 1);
                count(&stats.lmtp_duplicates, u64::from(matches!(reply, Reply::Delivered { duplicate: true, .. })));
            }
            _ => count(&stats.lmtp_not_delivered, 1),
        }
    }
}
