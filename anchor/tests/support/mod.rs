//! A real anvil, the committed contract on it, and an anchor whose events can be awaited.

pub mod flaky;
pub mod proxy;

use alloy_consensus::{Header, ReceiptEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rlp::Decodable;
use alloy_sol_types::{SolCall, SolEvent, sol};
use alloy_trie::nodes::TrieNode;
use alloy_trie::{Nibbles, proof::verify_proof};
use meshchain_anchor::{
    self as anchor, AnchorConfig, AnchorEvent, AnchorHandle, FinalAnchor, Finality, Witness,
};
use meshchain_core::{SignedHead, TreeHead};
use meshchain_store::{Location, Store};
use meshchain_stored::anchor::final_path;
use object_store::ObjectStore;
use proxy::{Fate, Proxy};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

sol! {
    event Anchored(
        address indexed sender, bytes32 indexed logId, uint64 prevSize, uint64 size, bytes32 root
    );
    function anchor(bytes32 logId, uint64 prevSize, uint64 size, bytes32 root);
    function head(address sender, bytes32 logId)
        returns (uint64 size, uint64 blockNumber, uint64 timestamp, bytes32 root);
}

pub const ORIGIN: &str = "log.example.org/test";
/// Longest wait for anything that has to come.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Anvil's first account, which anchors.
const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// Its third account.
pub const OTHER_KEY: &str = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";

pub struct Anvil {
    child: Child,
    pub url: String,
    pub accounts: Vec<Address>,
    pub contract: Address,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Anvil {
    /// Starts anvil and deploys the contract from its second account, in block 1.
    pub fn start() -> Self {
        let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
        let bundled = contracts.join("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
        let binary = std::env::var_os("ANVIL").map_or(bundled, PathBuf::from);
        let args = "--host 127.0.0.1 --port 0 --threads 1 --slots-in-an-epoch 2".split(' ');
        let child = Command::new(&binary).args(args).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| {
            panic!("cannot start {}: {e}; run: npm ci --prefix contracts", binary.display())
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening =
            lines.find_map(|line| Some(line.unwrap().strip_prefix("Listening on ")?.to_owned()));
        let url = format!("http://{}", listening.expect("anvil ended before it listened"));
        // Anvil must not block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let mut anvil = Self { child, url, accounts: Vec::new(), contract: Address::ZERO };
        anvil.accounts = serde_json::from_value(anvil.rpc("eth_accounts", json!([]))).unwrap();
        anvil.contract = anvil.deploy();
        anvil
    }

    /// The contract once more; its address.
    pub fn deploy(&self) -> Address {
        let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
        let artifact = std::fs::read(contracts.join("artifacts/MeshChainAnchor.json")).unwrap();
        let artifact: Value = serde_json::from_slice(&artifact).unwrap();
        let tx = json!({"from": self.accounts[1], "data": artifact["bytecode"]});
        let receipt = self.transact(tx);
        serde_json::from_value(receipt["contractAddress"].clone()).unwrap()
    }

    pub fn rpc(&self, method: &str, params: Value) -> Value {
        let answer = forward(
            &self.url,
            &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}),
        );
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    pub fn sender(&self) -> Address {
        self.accounts[0]
    }

    pub fn automine(&self, on: bool) {
        self.rpc("evm_setAutomine", json!([on]));
    }

    pub fn mine(&self, blocks: u64) {
        self.rpc("anvil_mine", json!([format!("{blocks:#x}")]));
    }

    /// Transactions that the anchoring account has in blocks.
    pub fn nonce(&self) -> u64 {
        let nonce = self.rpc("eth_getTransactionCount", json!([self.sender(), "latest"]));
        u64::from_str_radix(&nonce.as_str().unwrap()[2..], 16).unwrap()
    }

    /// Size and root that the contract holds for the log.
    pub fn head(&self) -> (u64, B256) {
        let data: Bytes = headCall { sender: self.sender(), logId: log_id() }.abi_encode().into();
        let call = json!({"to": self.contract, "data": data});
        let answer = self.rpc("eth_call", json!([call, "latest"]));
        let answer: Bytes = serde_json::from_value(answer).unwrap();
        let head = headCall::abi_decode_returns(&answer).unwrap();
        (head.size, head.root)
    }

    /// Number of the newest block.
    pub fn latest(&self) -> u64 {
        let number = self.rpc("eth_blockNumber", json!([]));
        u64::from_str_radix(&number.as_str().unwrap()[2..], 16).unwrap()
    }

    /// Anchors in the name of the account, past the collector.
    pub fn anchor_as_stranger(&self, prev_size: u64, size: u64) {
        self.anchor_other(prev_size, size, B256::from(root(size)));
    }

    /// Anchors that root in the name of the account, past the collector.
    pub fn anchor_other(&self, prev_size: u64, size: u64, root: B256) {
        let call = anchorCall { logId: log_id(), prevSize: prev_size, size, root };
        let data: Bytes = call.abi_encode().into();
        let tx = json!({"from": self.sender(), "to": self.contract, "data": data});
        self.transact(tx);
    }

    /// Whether the node has heard of a transaction.
    pub fn knows(&self, tx: B256) -> bool {
        !self.rpc("eth_getTransactionByHash", json!([tx])).is_null()
    }

    /// Sends a transaction and waits for its receipt.
    fn transact(&self, tx: Value) -> Value {
        let hash = self.rpc("eth_sendTransaction", json!([tx]));
        let deadline = Instant::now() + DEADLINE;
        loop {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash]));
            if !receipt.is_null() {
                return receipt;
            }
            assert!(Instant::now() < deadline, "{hash} is not mined");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn forward(url: &str, call: &Value) -> Value {
    let mut answer = ureq::post(url).send_json(call).unwrap();
    answer.body_mut().read_json().unwrap()
}

/// What the contract's `head` would give.
pub fn head(size: u64, root: B256, block: u64) -> Fate {
    Fate::Result(json!(format!("0x{size:064x}{block:064x}{:064x}{root:x}", 0)))
}

pub fn log_id() -> B256 {
    meshchain_core::hash::log_id(ORIGIN).into()
}

/// Some root that depends on the size.
pub fn root(size: u64) -> [u8; 32] {
    keccak256(size.to_be_bytes()).0
}

fn signed_head(size: u64) -> SignedHead {
    let head = TreeHead { size, root: root(size) };
    SignedHead { head, checkpoint: format!("checkpoint {size}") }
}

/// A log that grows on demand and an anchor that can be stopped and started.
pub struct Bench {
    pub config: AnchorConfig,
    pub store: Store,
    heads: watch::Sender<Option<SignedHead>>,
    running: Option<AnchorHandle>,
    sent: mpsc::UnboundedSender<AnchorEvent>,
    events: mpsc::UnboundedReceiver<AnchorEvent>,
    directory: TempDir,
}

impl Bench {
    /// Polls often, has no interval, one confirmation is final.
    pub fn new(anvil: &Anvil) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key");
        let (sent, events) = mpsc::unbounded_channel();
        let bench = Self {
            config: AnchorConfig {
                chain: "test".into(),
                rpc: anvil.url.clone(),
                chain_id: 31337,
                contract: anvil.contract,
                key_file,
                interval_s: 0,
                finality: Finality::Depth(1),
                max_fee_gwei: 500,
                daily_budget_wei: 1_000_000_000_000_000_000,
                poll_ms: 50,
                bump_after_s: 3600,
                disowned: Vec::new(),
                required_at_start: true,
            },
            store: Store::open(&Location::Directory(directory.path().join("data"))).unwrap(),
            heads: watch::channel(None).0,
            running: None,
            sent,
            events,
            directory,
        };
        bench.key(KEY);
        bench
    }

    /// Asks the node through a proxy.
    pub fn behind(proxy: &Proxy, anvil: &Anvil) -> Self {
        let mut bench = Self::new(anvil);
        bench.config.rpc.clone_from(&proxy.url);
        bench
    }

    /// Gives the anchor this key.
    pub fn key(&self, key: &str) {
        use std::os::unix::fs::PermissionsExt;
        let file = &self.config.key_file;
        std::fs::write(file, key).unwrap();
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// The same over objects of the caller's, as those of a locked directory or of a bucket.
    pub fn over(anvil: &Anvil, objects: Arc<dyn ObjectStore>, locked: bool) -> Self {
        Self { store: Store::over(objects, locked), ..Self::new(anvil) }
    }

    pub async fn start(&mut self) {
        let sent = self.sent.clone();
        self.start_telling(move |event| drop(sent.send(event))).await;
        self.event("key", |e| matches!(e, AnchorEvent::KeyLoaded { .. })).await;
    }

    /// Starts with `events` in place of what [`Self::event`] awaits.
    pub async fn start_telling(&mut self, events: impl Fn(AnchorEvent) + Send + Sync + 'static) {
        let heads = self.heads.subscribe();
        let own = self.heads.subscribe();
        let signed: anchor::OwnHeads = Box::new(move |size| {
            let grown = own.borrow().as_ref().is_some_and(|newest| newest.head.size >= size);
            Box::pin(std::future::ready(Ok((grown || size == 0).then(|| signed_head(size)))))
        });
        let store = self.store.clone();
        let started = anchor::start(self.config.clone(), ORIGIN, store, heads, signed, events);
        self.running = Some(started.await.unwrap());
    }

    pub async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub fn anchor(&self) -> &AnchorHandle {
        self.running.as_ref().unwrap()
    }

    pub fn grow(&self, size: u64) {
        self.heads.send_replace(Some(signed_head(size)));
    }

    /// The next event that fits; those before it are skipped.
    pub async fn event(&mut self, what: &str, fits: impl Fn(&AnchorEvent) -> bool) -> AnchorEvent {
        let mut seen = Vec::new();
        let wait = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if fits(&event) {
                    return event;
                }
                seen.push(event);
            }
        };
        let found = tokio::time::timeout(DEADLINE, wait).await;
        found.unwrap_or_else(|_| panic!("no {what}, but {seen:#?}"))
    }

    pub async fn submitted(&mut self) -> anchor::Sent {
        match self.event("submission", |e| matches!(e, AnchorEvent::Submitted(_))).await {
            AnchorEvent::Submitted(sent) => sent,
            other => panic!("{other:?}"),
        }
    }

    pub async fn replaced(&mut self) -> anchor::Sent {
        match self.event("replacement", |e| matches!(e, AnchorEvent::Replaced(_))).await {
            AnchorEvent::Replaced(sent) => sent,
            other => panic!("{other:?}"),
        }
    }

    pub async fn mined(&mut self) {
        self.event("mined anchor", |e| matches!(e, AnchorEvent::Mined { .. })).await;
    }

    /// Waits for the anchor of this size to be final, and checks all that is kept of it.
    pub async fn finalized(&mut self, size: u64) -> FinalAnchor {
        let final_of =
            |e: &AnchorEvent| matches!(e, AnchorEvent::Final { size: s, .. } if *s == size);
        self.event(&format!("final anchor of {size}"), final_of).await;
        let kept = self.anchor().finals().get(size).await.unwrap().unwrap();
        check(&kept);
        assert_eq!(kept.size, size);
        kept
    }

    /// Grows to this size, and waits for the anchor of it to be final.
    pub async fn anchored(&mut self, size: u64) -> FinalAnchor {
        self.grow(size);
        self.finalized(size).await
    }

    /// Waits for an alert that holds `words`.
    pub async fn alert(&mut self, words: &str, stops: bool) {
        let fits = |e: &AnchorEvent| matches!(e, AnchorEvent::Alert { reason, stopped, .. } if reason.contains(words) && *stopped == stops);
        self.event(&format!("alert {words:?}"), fits).await;
    }

    /// Waits to be told that the log is not the one that was anchored.
    pub async fn other_history(&mut self, words: &str, by: Witness) {
        let fits = |e: &AnchorEvent| matches!(e, AnchorEvent::OtherHistory { reason, witness, .. } if reason.contains(words) && *witness == by);
        self.event(&format!("other history {words:?}"), fits).await;
    }

    pub async fn recovered(&mut self) {
        self.event("recovery", |e| matches!(e, AnchorEvent::Recovered { .. })).await;
    }

    /// Polls until something is so.
    pub async fn until(&self, so: impl Fn() -> bool) {
        let poll = async {
            while !so() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, poll).await.expect("what was waited for did not come");
    }

    fn pending_path(&self) -> PathBuf {
        self.directory.path().join("data/anchor/test/pending.json")
    }

    /// The state object, as on disk.
    pub fn pending(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.pending_path()).unwrap()).unwrap()
    }

    pub fn lose_pending(&self) {
        std::fs::remove_file(self.pending_path()).unwrap();
    }

    /// What is kept of the final anchor of a size.
    pub fn receipt(&self, size: u64) -> Option<Vec<u8>> {
        std::fs::read(self.receipt_path(size)).ok()
    }

    /// Number of its block.
    pub fn block_of(&self, size: u64) -> u64 {
        FinalAnchor::parse(&self.receipt(size).unwrap()).unwrap().block_number
    }

    pub fn lose_receipt(&self, size: u64) {
        std::fs::remove_file(self.receipt_path(size)).unwrap();
    }

    fn receipt_path(&self, size: u64) -> PathBuf {
        self.directory.path().join("data").join(final_path("test", size))
    }

    /// What is kept of one whose block the chain gave up.
    pub fn given_up(&self, size: u64) -> Option<Vec<u8>> {
        let folder = self.directory.path().join("data/anchor/test/given-up");
        let name = format!("{size:020}-");
        let mut files = std::fs::read_dir(folder).ok()?.map(|file| file.unwrap());
        let file = files.find(|file| file.file_name().to_string_lossy().starts_with(&name))?;
        Some(std::fs::read(file.path()).unwrap())
    }

    /// Replaces the state object.
    pub fn put_pending(&self, state: &Value) {
        std::fs::write(self.pending_path(), state.to_string()).unwrap();
    }
}

/// What a verifier does: header to block hash, receipt to header, event in the receipt.
fn check(kept: &FinalAnchor) {
    let evidence = &kept.evidence;
    assert_eq!(keccak256(&evidence.header), kept.block_hash);
    let header = Header::decode(&mut &evidence.header[..]).unwrap();
    assert_eq!((header.number, header.timestamp), (kept.block_number, kept.block_timestamp));
    let proof: Vec<Bytes> = evidence.receipt_proof.iter().cloned().map(Bytes::from).collect();
    let TrieNode::Leaf(leaf) = TrieNode::decode(&mut &proof.last().unwrap()[..]).unwrap() else {
        panic!("the proof does not end in a leaf");
    };
    let key = alloy_rlp::encode_fixed_size(&evidence.transaction_index);
    let value = leaf.value.clone();
    verify_proof(header.receipts_root, Nibbles::unpack(key), Some(value.clone()), &proof).unwrap();
    let receipt = ReceiptEnvelope::decode_2718(&mut &value[..]).unwrap();
    assert!(receipt.status());
    let log = &receipt.logs()[evidence.log_index as usize];
    assert_eq!(log.address, kept.contract);
    let event = Anchored::decode_log(log).unwrap();
    assert_eq!((event.sender, event.logId), (kept.sender, log_id()));
    assert_eq!((event.size, event.root), (kept.size, B256::from(root(kept.size))));
    assert_eq!((evidence.chain_id, evidence.size), (31337, kept.size));
    assert_eq!(kept.checkpoint, format!("checkpoint {}", kept.size));
}
