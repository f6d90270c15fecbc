//! The task of one anchor: look, let the machine decide, make it durable, act.

use crate::config::AnchorConfig;
use crate::error::AnchorError;
use crate::event::AnchorEvent;
use crate::handle::{AnchorHandle, AnchorStatus, Finals, InFlightStatus, Shared};
use crate::history::OwnRoots;
use crate::machine::{self, Action, MAX_MISSES, Rules, Sight};
use crate::node::Node;
use crate::rpc::RpcError;
use crate::state::{Mined, Objects, State, StateError};
use crate::tx::Account;
use alloy_primitives::{B256, U256};
use meshchain_core::SignedHead;
use meshchain_core::hash::log_id;
use meshchain_evm::ProofError;
use meshchain_store::Store;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, timeout};

/// Longest time that a start waits for a node.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Why a step ended early.
pub(crate) enum Trouble {
    /// Try again at the next poll.
    Hold(String),
    /// Never again.
    Stop(String),
    /// Never again, and the log must not grow: it is not the one that was anchored.
    OtherHistory(String),
}

pub(crate) struct Runner {
    pub(crate) config: AnchorConfig,
    pub(crate) rules: Rules,
    pub(crate) account: Account,
    pub(crate) log_id: B256,
    pub(crate) node: Node,
    pub(crate) objects: Objects,
    pub(crate) finals: Finals,
    heads: watch::Receiver<Option<SignedHead>>,
    pub(crate) roots: OwnRoots,
    shared: Arc<Shared>,
    events: Box<dyn Fn(AnchorEvent) + Send + Sync>,
    /// What is on disk: replaced only after a write.
    pub(crate) state: State,
    /// Whether the node was asked who it is since it last failed to answer.
    checked: bool,
    misses: u32,
}

/// Starts anchoring the log `origin` as configured, once what is kept, and what the chain holds, was compared with
/// the log's own `roots`. The chain need not be there; then it is compared when it is.
pub async fn start(
    config: AnchorConfig,
    origin: &str,
    store: Store,
    heads: watch::Receiver<Option<SignedHead>>,
    roots: OwnRoots,
    events: impl Fn(AnchorEvent) + Send + Sync + 'static,
) -> Result<AnchorHandle, AnchorError> {
    config.validate()?;
    let chain = config.chain.clone();
    let key = |reason| AnchorError::Key { chain: chain.clone(), reason };
    let account = Account::load(&config.key_file).map_err(key)?;
    let state = |source| AnchorError::State { chain: chain.clone(), source };
    let objects = Objects::new(store, &config.chain);
    let fresh = State::new(account.address(), config.contract, config.chain_id);
    let loaded = objects.load(fresh).await.map_err(state)?;
    let sizes = objects.final_sizes().await.map_err(state)?.into_iter().collect();
    let finals = Finals { sizes: Arc::new(RwLock::new(sizes)), objects: objects.clone() };
    let log = Anchored { id: log_id(origin).into(), heads, roots };
    let mut runner = Runner::new(config, account, log, loaded, finals.clone(), Box::new(events));
    (runner.events)(AnchorEvent::KeyLoaded { chain, address: runner.account.address() });
    runner.first_look().await;
    let shared = runner.shared.clone();
    let (stop, stopped) = watch::channel(false);
    let task = Arc::new(Mutex::new(Some(tokio::spawn(runner.run(stopped)))));
    Ok(AnchorHandle { shared, finals, stop, task })
}

/// The log that is anchored.
struct Anchored {
    id: B256,
    heads: watch::Receiver<Option<SignedHead>>,
    roots: OwnRoots,
}

impl Runner {
    fn new(
        config: AnchorConfig,
        account: Account,
        log: Anchored,
        state: State,
        finals: Finals,
        events: Box<dyn Fn(AnchorEvent) + Send + Sync>,
    ) -> Self {
        let Anchored { id: log_id, heads, roots } = log;
        let rules = Rules {
            interval_ms: config.interval_s.saturating_mul(1000),
            bump_after_ms: config.bump_after_s.saturating_mul(1000),
            max_fee: config.max_fee_wei(),
            daily_budget: config.daily_budget_wei,
        };
        let status = AnchorStatus {
            chain: config.chain.clone(),
            chain_id: config.chain_id,
            contract: config.contract,
            sender: account.address(),
            log_id,
            last_final_size: finals.last_size(),
            in_flight: None,
            alert: None,
            stopped: false,
            balance_wei: None,
            spent_today_wei: U256::ZERO,
        };
        let node = Node::new(&config.rpc);
        let objects = finals.objects.clone();
        let shared = Arc::new(Shared::new(status));
        let runner = Self {
            config,
            rules,
            account,
            log_id,
            node,
            objects,
            finals,
            heads,
            roots,
            shared,
            events,
            state,
            checked: false,
            misses: 0,
        };
        runner.show();
        runner
    }

    /// Before the log may grow: is it the one that was anchored? What cannot be told now is asked again before
    /// anything is anchored.
    async fn first_look(&mut self) {
        let looked = async {
            self.compare_kept().await?;
            self.check().await
        };
        match timeout(FIRST_LOOK, looked).await {
            Ok(Err(Trouble::OtherHistory(reason))) => self.other_history(reason),
            Ok(looked) => self.checked = looked.is_ok(),
            Err(_) => {}
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut poll = tokio::time::interval(Duration::from_millis(self.config.poll_ms));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.shared.get().stopped {
            // Also ends when the handle was dropped.
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                _ = poll.tick() => {}
            }
            // A step runs to its end, so that no write is left half awaited.
            let result = self.step().await;
            // The day may have changed.
            self.show();
            match result {
                Ok(()) => self.recovered(),
                Err(Trouble::Hold(reason)) => self.alert(reason, false),
                Err(Trouble::Stop(reason)) => self.alert(reason, true),
                Err(Trouble::OtherHistory(reason)) => self.other_history(reason),
            }
        }
    }

    async fn step(&mut self) -> Result<(), Trouble> {
        if !self.checked {
            self.compare_kept().await?;
            self.check().await?;
            self.checked = true;
        }
        let newest = self.heads.borrow().clone();
        if let Some(reason) = newest.as_ref().and_then(|h| machine::rewound(&self.state, &h.head)) {
            return Err(Trouble::OtherHistory(reason));
        }
        let newest = newest.filter(|h| h.head.size > 0);
        let now = now_ms();
        if !machine::due(&self.state, newest.as_ref().map(|h| &h.head), &self.rules, now) {
            return Ok(());
        }
        let sight = match self.look().await {
            Ok(sight) => sight,
            Err(error) => return Err(self.lost(error)),
        };
        let action = machine::decide(&self.state, &sight, &self.rules, now);
        let done = self.act(action, &sight, newest, now).await;
        done.map_err(|trouble| self.explain(trouble))
    }

    /// Asks a node that is new, or was away, whether it is on the right chain, and what that holds of the log.
    async fn check(&mut self) -> Result<(), Trouble> {
        let expected = self.config.chain_id;
        let chain_id = self.node.chain_id().await?;
        if chain_id != expected {
            let reason = format!("the node is on chain {chain_id}, chain_id is {expected}");
            return Err(Trouble::Stop(reason));
        }
        if !self.node.has_code(self.config.contract).await? {
            let reason = format!("there is no contract at {}", self.config.contract);
            return Err(Trouble::Stop(reason));
        }
        self.compare_contract().await?;
        self.look_at_balance().await?;
        Ok(())
    }

    pub(crate) async fn look_at_balance(&self) -> Result<u128, RpcError> {
        let balance = self.node.balance(self.account.address()).await?;
        self.shared.change(|s| s.balance_wei = Some(balance));
        Ok(balance.saturating_to())
    }

    /// Looks at what the decision needs: first the nonce, then the receipts. In the other order an
    /// attempt mined in between would look like a stranger's.
    async fn look(&mut self) -> Result<Sight, RpcError> {
        let sender = self.account.address();
        let mut sight =
            Sight { nonce: self.node.nonce(sender, "latest").await?, ..Sight::default() };
        let Some(flight) = &self.state.in_flight else {
            sight.pool_nonce = Some(self.node.nonce(sender, "pending").await?);
            return Ok(sight);
        };
        // All of them until one is found, the likeliest first.
        for (index, attempt) in flight.attempts.iter().enumerate().rev() {
            if let Some(receipt) = self.node.receipt(attempt.tx).await? {
                let (block, block_hash) = (receipt.block_number.to(), receipt.block_hash);
                sight.found = Some((index, Mined { tx: attempt.tx, block, block_hash }));
                break;
            }
        }
        let used = sight.nonce > flight.nonce;
        if used || sight.found.is_some() {
            let latest = self.node.latest().await?.number.to();
            sight.final_block = self.node.final_block(self.config.finality, latest).await?;
        }
        if let (true, None, Some(block)) = (used, sight.found, sight.final_block) {
            sight.final_nonce = Some(self.node.nonce(sender, &format!("{block:#x}")).await?);
        }
        let missed = sight.final_nonce.is_some_and(|n| n > flight.nonce);
        self.misses = if missed { self.misses.saturating_add(1).min(MAX_MISSES) } else { 0 };
        sight.misses = self.misses;
        if let (None, false, Some(newest)) = (sight.found, used, flight.newest()) {
            sight.known = self.node.knows(newest.tx).await?;
        }
        Ok(sight)
    }

    async fn act(
        &mut self,
        action: Action,
        sight: &Sight,
        newest: Option<SignedHead>,
        now: u64,
    ) -> Result<(), Trouble> {
        match action {
            Action::Rest => Ok(()),
            Action::Hold(reason) => Err(Trouble::Hold(reason)),
            Action::Stop(reason) => Err(Trouble::Stop(reason)),
            Action::Resend => self.send_newest().await,
            Action::Mined(mined) => self.mined(mined).await,
            Action::Reorged(mined) => self.reorged(mined, now).await,
            Action::Settle { attempt, mined } => self.settle(attempt, mined, now).await,
            Action::Plan { resend } => {
                let attempted = match newest {
                    Some(newest) => self.attempt(newest, sight.nonce, now).await,
                    None => Err(Trouble::Hold("the log has not told its head yet".to_owned())),
                };
                if resend && matches!(attempted, Err(Trouble::Hold(_))) {
                    self.send_newest().await?;
                }
                attempted
            }
        }
    }

    pub(crate) async fn save(&mut self, next: State) -> Result<(), StateError> {
        self.objects.save(&next).await?;
        self.state = next;
        self.show();
        Ok(())
    }

    /// A node that failed to answer may be another one when it is back.
    fn lost(&mut self, error: RpcError) -> Trouble {
        self.checked &= !matches!(error, RpcError::Unreachable(_));
        error.into()
    }

    /// Adds to a stop that concerns the nonce how to go on.
    fn explain(&self, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::Stop(reason) if reason.starts_with("nonce ") => Trouble::Stop(format!(
                "{reason}. Give this anchor a key of its own (key_file of a new account), and name that account \
                 in the policies beside the old one, whose anchors stay valid"
            )),
            other => other,
        }
    }

    pub(crate) fn emit(&self, event: AnchorEvent) {
        (self.events)(event);
    }

    fn alert(&self, reason: String, stopped: bool) {
        let before = self.shared.get();
        if before.alert.as_ref() == Some(&reason) && before.stopped == stopped {
            return;
        }
        self.shared.change(|s| {
            s.alert = Some(reason.clone());
            s.stopped = stopped;
        });
        self.emit(AnchorEvent::Alert { chain: self.config.chain.clone(), reason, stopped });
    }

    fn other_history(&self, reason: String) {
        let chain = self.config.chain.clone();
        self.emit(AnchorEvent::OtherHistory { chain, reason: reason.clone() });
        self.alert(reason, true);
    }

    fn recovered(&self) {
        if self.shared.get().alert.is_some() {
            self.shared.change(|s| s.alert = None);
            self.emit(AnchorEvent::Recovered { chain: self.config.chain.clone() });
        }
    }

    /// Copies the state to where readers see it.
    fn show(&self) {
        let flight = self.state.in_flight.as_ref();
        let in_flight =
            flight.and_then(|f| f.newest().map(|a| (f, a))).map(|(f, a)| InFlightStatus {
                nonce: f.nonce,
                attempts: f.attempts.len(),
                tx: a.tx,
                size: a.size,
                root: a.root,
                max_fee: a.max_fee,
                mined_block: f.mined.map(|m| m.block),
            });
        let spent = self.state.spent_on_day(now_ms());
        self.shared.change(|s| {
            s.in_flight = in_flight;
            s.last_final_size = self.finals.last_size();
            s.spent_today_wei = U256::from(spent);
        });
    }
}

impl From<RpcError> for Trouble {
    fn from(error: RpcError) -> Self {
        Self::Hold(error.to_string())
    }
}

impl From<ProofError> for Trouble {
    fn from(error: ProofError) -> Self {
        Self::Hold(error.to_string())
    }
}

impl From<StateError> for Trouble {
    /// What cannot be made durable must not be sent, now or later.
    fn from(error: StateError) -> Self {
        Self::Stop(error.to_string())
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
