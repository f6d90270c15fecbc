//! `--rpc` against a fake node: what it says decides the `block` step.

use crate::server::serve;
use alloy_primitives::{Address, B256, keccak256};
use meshchain::{BlockAnswer, BlockQuery, ChainView, Finality, RpcChain};
use serde_json::{Value, json};

/// What the fake node says.
#[derive(Clone)]
struct Node {
    chain_id: &'static str,
    hash: B256,
    head: u64,
    finalized: Option<u64>,
    code: String,
    pruned: bool,
}

fn known_code() -> String {
    let artifact = include_str!("../../../contracts/artifacts/MeshChainAnchor.json");
    let artifact: Value = serde_json::from_str(artifact).unwrap();
    artifact["deployedBytecode"].as_str().unwrap().to_owned()
}

fn good() -> Node {
    Node {
        chain_id: "0x7a69",
        hash: B256::repeat_byte(7),
        head: 20,
        finalized: Some(12),
        code: known_code(),
        pruned: false,
    }
}

fn query() -> BlockQuery {
    BlockQuery {
        chain_id: 31337,
        number: 12,
        hash: B256::repeat_byte(7),
        timestamp: 0,
        contract: Address::repeat_byte(1),
        code_hash: None,
        finality: Finality::Finalized,
    }
}

fn ask(node: Node, query: &BlockQuery) -> BlockAnswer {
    let url = serve(move |_, body| {
        let request: Value = serde_json::from_slice(body).unwrap();
        let first = request["params"][0].as_str().unwrap_or_default();
        let block = |number: u64| json!({"number": format!("{number:#x}"), "hash": node.hash});
        let result = match request["method"].as_str().unwrap() {
            "eth_chainId" => json!(node.chain_id),
            "eth_blockNumber" => json!(format!("{:#x}", node.head)),
            "eth_getBlockByNumber" if matches!(first, "finalized" | "safe") => {
                node.finalized.map_or(Value::Null, block)
            }
            "eth_getBlockByNumber" => {
                let number = u64::from_str_radix(&first[2..], 16).unwrap();
                if number <= node.head { block(number) } else { Value::Null }
            }
            "eth_getCode" if node.pruned && request["params"][1] != "latest" => {
                let error = json!({"error": {"code": -32000, "message": "missing trie node"}});
                return (200, error.to_string().into_bytes());
            }
            "eth_getCode" => json!(node.code),
            other => panic!("{other}"),
        };
        (200, json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string().into_bytes())
    });
    RpcChain::new(url).block(query)
}

#[test]
fn a_final_block_of_the_known_contract_is_final() {
    let at_depth = |blocks| BlockQuery { finality: Finality::Depth(blocks), ..query() };
    for (node, query) in [
        (good(), query()),
        (good(), BlockQuery { finality: Finality::Safe, ..query() }),
        (Node { finalized: None, ..good() }, at_depth(8)),
        (Node { pruned: true, ..good() }, query()),
        (
            Node { code: "0x6001".into(), ..good() },
            BlockQuery { code_hash: Some(keccak256([0x60, 1])), ..query() },
        ),
    ] {
        let answer = ask(node, &query);
        assert!(matches!(answer, BlockAnswer::Final(_)), "{answer:?}");
    }
}

#[test]
fn another_contract_refutes() {
    for node in [Node { code: "0x".into(), ..good() }, Node { code: known_code() + "00", ..good() }]
    {
        let answer = ask(node, &query());
        assert!(matches!(answer, BlockAnswer::Refuted(_)), "{answer:?}");
    }
}

#[test]
fn what_is_not_final_or_not_answered_stays_unknown() {
    let at_depth = BlockQuery { finality: Finality::Depth(9), ..query() };
    for (node, query) in [
        (Node { chain_id: "0x1", ..good() }, query()),
        (Node { hash: B256::ZERO, ..good() }, query()),
        (Node { finalized: Some(11), hash: B256::ZERO, ..good() }, query()),
        (Node { finalized: None, ..good() }, query()),
        (Node { head: 11, ..good() }, query()),
        (good(), at_depth),
        (Node { chain_id: "31337", ..good() }, query()),
        (Node { code: "nonsense".into(), ..good() }, query()),
    ] {
        let answer = ask(node, &query);
        assert!(matches!(answer, BlockAnswer::Unknown(_)), "{answer:?}");
    }
    for (status, body) in [(502, "<html>"), (200, "[]"), (200, "{}"), (401, r#"{"error": 7}"#)] {
        let answer = RpcChain::new(serve(move |_, _| (status, body.into()))).block(&query());
        assert!(matches!(answer, BlockAnswer::Unknown(_)), "{answer:?}");
    }
    for url in
        ["http://user:secret@127.0.0.1:1/key", "secret", "htp://secret/", "http://secret here"]
    {
        let nobody = RpcChain::new(url).block(&query());
        let BlockAnswer::Unknown(reason) = nobody else { panic!("{nobody:?}") };
        assert!(!reason.contains("secret"), "{reason}");
    }
}
