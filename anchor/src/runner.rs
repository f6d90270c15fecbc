//! The task of one anchor: look, let the machine decide, make it durable, act.

use crate::config::AnchorConfig;
use crate::error::AnchorError;
use crate::event::AnchorEvent;
use crate::former;
use crate::handle::{AnchorHandle, AnchorStatus, Ended, Finals, Shared};
use crate::history::OwnHeads;
use crate::machine::{self, Action, Rules, Sight};
use crate::node::Node;
use crate::objects::{Kept, Objects, Written};
use crate::rpc::RpcError;
use crate::state::{FormerAccount, State, StateError};
use crate::trouble::Trouble;
use crate::tx::Account;
use crate::voice::Voice;
use alloy_primitives::{B256, U256};
use meshchain_core::SignedHead;
use meshchain_core::hash::log_id;
use meshchain_store::Store;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, timeout};

/// What to do about a state that cannot be gone on with.
const UNUSABLE: &str = "nothing is anchored on this chain, the log goes on: `meshchain fsck --rpc --repair` tells whether the \
     state can be made again, see docs/fsck.md";

/// Longest time that a start waits for a node.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What the node said last of the contract's head and the log's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    /// It was not asked.
    Nothing,
    /// That is of it.
    Own,
    /// It is of another one.
    Other,
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
    pub(crate) own: OwnHeads,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: Box<dyn Fn(AnchorEvent) + Send + Sync>,
    /// What is on disk: replaced only after a write.
    pub(crate) state: State,
    /// Whose anchors came before.
    pub(crate) former: Vec<FormerAccount>,
    /// Whether the node was asked who it is, and what the contract holds, since it last failed to answer.
    pub(crate) checked: bool,
    pub(crate) compared: Compared,
    /// Whether the proof of the last final anchor was looked for on that node's chain.
    placed: bool,
    pub(crate) misses: u32,
    /// Looks in a row that showed a chain without the last final anchor, from a node that does not lag.
    pub(crate) rewound: u32,
    /// Whether this process went back to what such a chain holds.
    pub(crate) went_back: bool,
    /// Whether this process planned an attempt.
    pub(crate) attempted: bool,
    /// Whether the last final anchor is one that this process planned: the state is the newest there is then.
    pub(crate) sure: bool,
    /// Why the state on disk is none to go on with: nothing is sent then, nor written.
    unusable: Option<String>,
    pub(crate) voice: Voice,
}

/// Starts anchoring the log `origin` as configured: makes the anchor's state this collector's, so that one before it
/// sends nothing any more, and compares what is kept, and what the chain holds, with the log's `own` heads. Where the
/// node does not answer within 5 seconds, that is told later: [`AnchorEvent::Compared`]. A state that cannot be read stops
/// this anchor after that comparison, by an alert.
pub async fn start(
    config: AnchorConfig,
    origin: &str,
    store: Store,
    heads: watch::Receiver<Option<SignedHead>>,
    own: OwnHeads,
    events: impl Fn(AnchorEvent) + Send + Sync + 'static,
) -> Result<AnchorHandle, AnchorError> {
    config.validate()?;
    let chain = config.chain.clone();
    let key = |reason| AnchorError::Key { chain: chain.clone(), reason };
    let account = Account::load(&config.key_file).map_err(key)?;
    let state = |source| AnchorError::State { chain: chain.clone(), source };
    let objects = Objects::new(store, &config.chain);
    let writer = random().map_err(|source| AnchorError::Random { chain: chain.clone(), source })?;
    let fresh = State::new(account.address(), config.contract, config.chain_id);
    let fresh = State { writer, ..fresh };
    let (taken, unusable) = match objects.take_over(fresh.clone()).await {
        Ok(taken) => (taken, None),
        Err(source @ StateError::Store(_)) => return Err(state(source)),
        Err(unusable) => (fresh, Some(format!("{unusable}; {UNUSABLE}"))),
    };
    let Kept { sizes, accounts } = objects.kept(config.chain_id).await.map_err(state)?;
    let finals = Finals { sizes: Arc::new(RwLock::new(sizes)), objects };
    let log = Anchored { id: log_id(origin).into(), heads, own };
    let former = former::former(&taken, accounts, &config.disowned);
    let mut runner = Runner::new(config, account, log, taken, finals.clone(), Box::new(events));
    (runner.unusable, runner.former) = (unusable, former);
    (runner.events)(AnchorEvent::KeyLoaded { chain, address: runner.account.address() });
    runner.tell_found().await;
    runner.first_look().await;
    let shared = runner.shared.clone();
    let (stop, stopped) = watch::channel(false);
    let task = Arc::new(Mutex::new(Some(tokio::spawn(runner.run(stopped)))));
    Ok(AnchorHandle { shared, finals, stop, task })
}

/// Whether the key of an anchor can be used, before anything is made for it; why not, in words.
pub fn check_key(config: &AnchorConfig) -> Result<(), String> {
    let AnchorConfig { chain, key_file, .. } = config;
    Account::load(key_file).map(drop).map_err(|why| format!("anchor {chain}: key_file: {why}"))
}

/// The log that is anchored.
struct Anchored {
    id: B256,
    heads: watch::Receiver<Option<SignedHead>>,
    own: OwnHeads,
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
        let Anchored { id: log_id, heads, own } = log;
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
            own,
            shared,
            events,
            state,
            former: Vec::new(),
            checked: false,
            compared: Compared::Nothing,
            placed: false,
            misses: 0,
            rewound: 0,
            went_back: false,
            attempted: false,
            sure: false,
            unusable: None,
            voice: Voice::default(),
        };
        runner.show();
        runner
    }

    /// Is the log the one that was anchored? What cannot be told now is asked again at each poll.
    async fn first_look(&mut self) {
        match timeout(FIRST_LOOK, self.compare()).await {
            Ok(Err(Trouble::OtherHistory(reason))) => self.other_history(reason),
            Ok(Err(Trouble::NodeSaysOther(reason))) => self.node_says_other(reason),
            Ok(Err(_)) | Err(_) => {}
            Ok(Ok(())) => self.node_says_own(),
        }
    }

    /// Runs until it is told to stop. An error: it must not go on.
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Ended {
        let mut poll = tokio::time::interval(Duration::from_millis(self.config.poll_ms));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Also ends when the handle was dropped.
            tokio::select! {
                biased;
                _ = stop.changed() => return Ok(()),
                _ = poll.tick(), if !self.shared.get().stopped => {}
            }
            // A step runs to its end, so that no write is left half awaited.
            let result = self.step().await;
            // The day may have changed.
            self.show();
            match &result {
                Err(Trouble::Rewound(_)) => self.rewound = self.rewound.saturating_add(1),
                _ => self.rewound = 0,
            }
            match result {
                Ok(()) => self.recovered(),
                Err(Trouble::Hold(reason) | Trouble::Rewound(reason)) => self.alert(reason, false),
                Err(Trouble::Stop(reason)) => self.alert(reason, true),
                Err(Trouble::OtherHistory(reason)) => self.other_history(reason),
                Err(Trouble::NodeSaysOther(reason)) => self.node_says_other(reason),
                Err(Trouble::TakenOver(error)) => {
                    self.alert(error.to_string(), true);
                    return Err(error);
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), Trouble> {
        if !self.checked {
            self.compare().await?;
            self.node_says_own();
            self.placed = false;
        }
        if let Some(reason) = &self.unusable {
            return Err(Trouble::Stop(reason.clone()));
        }
        if !self.placed {
            self.place_last().await?;
            self.placed = true;
        }
        let newest = self.heads.borrow().clone();
        if let Some(reason) = newest.as_ref().and_then(|h| machine::older_log(&self.state, &h.head))
        {
            return Err(Trouble::OtherHistory(reason));
        }
        let newest = newest.filter(|h| h.head.size > 0);
        let now = now_ms();
        if !machine::due(&self.state, newest.as_ref().map(|h| &h.head), &self.rules, now) {
            return Ok(());
        }
        if let (None, Some(newest)) = (&self.state.in_flight, &newest)
            && self.is_of_former(newest.head.size).await
        {
            // It is anchored; the next size is this account's.
            return Ok(());
        }
        let sight = match self.look().await {
            Ok(sight) => sight,
            Err(error) => return Err(self.lost(error)),
        };
        let action = machine::decide(&self.state, &sight, &self.rules, now);
        self.act(action, &sight, newest, now).await
    }

    pub(crate) async fn look_at_balance(&self) -> Result<u128, RpcError> {
        let balance = self.node.balance(self.account.address()).await?;
        self.shared.change(|s| s.balance_wei = Some(balance));
        Ok(balance.saturating_to())
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
            Action::NonceUsed(reason) => self.nonce_used(reason).await,
            Action::Behind(reason) => self.behind(&reason).await,
            Action::Resend => self.resend().await,
            Action::Mined(mined) => self.mined(mined).await,
            Action::Reorged(mined) => self.reorged(mined, now).await,
            Action::Settle { attempt, mined } => self.settle(attempt, mined, now).await,
            Action::Plan { resend } => {
                let attempted = match newest {
                    Some(newest) => self.attempt(newest, sight.nonce, now).await,
                    None => Err(Trouble::Hold("the log has not told its head yet".to_owned())),
                };
                if resend && matches!(attempted, Err(Trouble::Hold(_))) {
                    self.resend().await?;
                }
                attempted
            }
        }
    }

    pub(crate) async fn save(&mut self, next: State) -> Result<Written, StateError> {
        let written = self.objects.save(&next).await?;
        self.state = next;
        self.show();
        Ok(written)
    }

    /// A node that failed to answer may be another one when it is back.
    fn lost(&mut self, error: RpcError) -> Trouble {
        self.checked &= !matches!(error, RpcError::Unreachable(_));
        error.into()
    }
}

/// A number that no other writer draws, in hex.
fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
