//! The calls of the anchor contract, and EIP-1559 transactions that make them.

use alloy_consensus::transaction::SignableTransaction;
use alloy_consensus::{Signed, TxEip1559};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use alloy_sol_types::{SolCall, sol};
use k256::ecdsa::SigningKey;
use std::path::Path;

sol! {
    function anchor(bytes32 logId, uint64 prevSize, uint64 size, bytes32 root);
    function head(address sender, bytes32 logId)
        returns (uint64 size, uint64 blockNumber, uint64 timestamp, bytes32 root);
}

/// Largest key file that is read: 64 digits, a prefix, white space.
const MAX_KEY_FILE: u64 = 256;

/// The account that anchors.
pub(crate) struct Account {
    key: SigningKey,
    address: Address,
}

/// Everything of an anchor transaction that varies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) chain_id: u64,
    pub(crate) contract: Address,
    pub(crate) nonce: u64,
    pub(crate) gas_limit: u64,
    pub(crate) fees: Fees,
    pub(crate) input: Bytes,
}

/// What a transaction offers per gas, in wei.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fees {
    /// Most for base fee and tip together.
    pub(crate) max: u128,
    /// Most for the tip; at most `max`.
    pub(crate) tip: u128,
}

impl Account {
    /// Reads a private key of 32 bytes in hex; the error holds nothing of it.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let path_text = path.display();
        let io = |e: std::io::Error| format!("cannot read {path_text}: {e}");
        let file = std::fs::File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        check_mode(&meta).map_err(|mode| {
            format!("{path_text} has mode {mode:03o}: others must have no access (chmod o= it)")
        })?;
        if !meta.is_file() || meta.len() > MAX_KEY_FILE {
            return Err(format!("{path_text} is not a file of 32 bytes in hex"));
        }
        let mut text = String::new();
        let mut limited = std::io::Read::take(file, MAX_KEY_FILE);
        std::io::Read::read_to_string(&mut limited, &mut text).map_err(io)?;
        Self::from_hex(text.trim())
            .ok_or(format!("{path_text} holds no private key of 32 bytes in hex"))
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes).ok()?;
        let key = SigningKey::from_bytes(&bytes.into()).ok()?;
        bytes.fill(0);
        let point = key.verifying_key().to_encoded_point(false);
        // An address is the last 20 bytes of the hash of the point without its tag byte.
        let address = Address::from_slice(&keccak256(&point.as_bytes()[1..])[12..]);
        Some(Self { key, address })
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// Signs: hash and EIP-2718 bytes. Deterministic (RFC 6979), s in the lower half.
    pub(crate) fn sign(&self, call: &Call) -> Result<(B256, Bytes), k256::ecdsa::Error> {
        let tx = TxEip1559 {
            chain_id: call.chain_id,
            nonce: call.nonce,
            gas_limit: call.gas_limit,
            max_fee_per_gas: call.fees.max,
            max_priority_fee_per_gas: call.fees.tip,
            to: TxKind::Call(call.contract),
            value: U256::ZERO,
            access_list: Default::default(),
            input: call.input.clone(),
        };
        let (signature, recovery) =
            self.key.sign_prehash_recoverable(tx.signature_hash().as_slice())?;
        let signature =
            Signature::from_bytes_and_parity(&signature.to_bytes(), recovery.is_y_odd());
        let signed: Signed<TxEip1559> = tx.into_signed(signature);
        Ok((*signed.hash(), signed.encoded_2718().into()))
    }
}

/// Call data of an anchor.
pub(crate) fn anchor_input(log_id: B256, prev_size: u64, size: u64, root: B256) -> Bytes {
    anchorCall { logId: log_id, prevSize: prev_size, size, root }.abi_encode().into()
}

/// Call data that asks for a sender's head of a log.
pub(crate) fn head_input(sender: Address, log_id: B256) -> Bytes {
    headCall { sender, logId: log_id }.abi_encode().into()
}

/// Refuses a file that others than owner and group can open. The group may read: that is how
/// Kubernetes hands a secret to a container that is not root.
#[cfg(unix)]
fn check_mode(meta: &std::fs::Metadata) -> Result<(), u32> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
    if mode & 0o007 == 0 { Ok(()) } else { Err(mode) }
}

#[cfg(not(unix))]
fn check_mode(_: &std::fs::Metadata) -> Result<(), u32> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{address, b256, hex};

    const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn a_transaction_is_the_one_that_ethers_signs() {
        let account = Account::from_hex(KEY).unwrap();
        assert_eq!(account.address(), address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));
        let call = Call {
            chain_id: 31337,
            contract: address!("5FbDB2315678afecb367f032d93F642f64180aa3"),
            nonce: 7,
            gas_limit: 50_000,
            fees: Fees { max: 2_000_000_000, tip: 1_000_000_000 },
            input: hex!("427dc9200102").into(),
        };
        let (hash, raw) = account.sign(&call).unwrap();
        assert_eq!(hash, b256!("fbb242277a17eb2ac6d5fecb7c5e5e655127bc9e0dc50455317d5930a38c7a28"));
        let expected = concat!(
            "02f872827a6907843b9aca00847735940082c350945fbdb2315678afecb367f032d93f642f64180aa380",
            "86427dc9200102c080a0625ebc8e096216ce8b822d1882209a2394e5731baf8c10199eeceaf15951f3be",
            "a0340314a849c1b8ec2150df125cb32c828c8383a6a3a6c7bb1055a63cb9bbdf1b",
        );
        assert_eq!(hex::encode(raw), expected);
    }

    #[test]
    fn selectors_are_those_of_the_committed_contract() {
        assert_eq!(anchorCall::SELECTOR, hex!("427dc920"));
        let artifact = include_str!("../../contracts/artifacts/MeshChainAnchor.json");
        let artifact: serde_json::Value = serde_json::from_str(artifact).unwrap();
        let abi = artifact["abi"].as_array().unwrap();
        let signature = |name: &str| {
            let item = abi.iter().find(|i| i["type"] == "function" && i["name"] == name).unwrap();
            let types = item["inputs"].as_array().unwrap().iter();
            let types: Vec<_> = types.map(|i| i["type"].as_str().unwrap()).collect();
            keccak256(format!("{name}({})", types.join(",")))
        };
        assert_eq!(signature("anchor")[..4], anchorCall::SELECTOR);
        assert_eq!(signature("head")[..4], headCall::SELECTOR);
        let code = artifact["deployedBytecode"].as_str().unwrap();
        assert!(code.contains(&hex::encode(anchorCall::SELECTOR)));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_or_that_is_no_key_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let load = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            Account::load(&path).map(|account| account.address())
        };
        assert!(load(&format!("{KEY}\n"), 0o600).is_ok());
        assert!(load(&KEY[2..], 0o440).is_ok());
        assert!(load(KEY, 0o644).unwrap_err().contains("644"));
        for bad in ["", "0x12", &"0".repeat(64), &"f".repeat(64), &"zz".repeat(32)] {
            let error = load(bad, 0o600).unwrap_err();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        assert!(Account::load(&directory.path().join("none")).is_err());
    }
}
