"""The shared chain: anvil with a block per second, and the anchor contract on it."""

import json
from pathlib import Path
from typing import Any

from lab import client
from lab.procs import Failed, Processes, free_port, wait_until
from lab.tools import REPOSITORY, anvil_binary

CHAIN_ID = 31337
START_S = 20.0
RECEIPT_S = 15.0
ARTIFACT = REPOSITORY / "contracts" / "artifacts" / "MeshChainAnchor.json"


class Chain:
    """One anvil. Its `finalized` block is two behind the newest: two epochs of one slot each."""

    def __init__(self, processes: Processes, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        accounts = directory / "accounts.json"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = processes.start("anvil", [
            anvil_binary(), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(CHAIN_ID),
            "--block-time", "1", "--slots-in-an-epoch", "1", "--threads", "1", "--config-out", str(accounts)])
        wait_until(lambda: self.call("eth_chainId") == hex(CHAIN_ID), START_S, "the chain answers", self.process)
        made = json.loads(accounts.read_text())
        self.accounts: list[str] = [a.lower() for a in made["available_accounts"]]
        self._keys: list[str] = made["private_keys"]

    def call(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        answer = client.request("POST", self.url, {"content-type": "application/json"}, body).json()
        if "error" in answer:
            raise Failed(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def deploy(self) -> str:
        """Deploys the anchor contract from the first account, which no collector uses; its address."""
        code = json.loads(ARTIFACT.read_text())["bytecode"]
        tx = self.call("eth_sendTransaction", {"from": self.accounts[0], "data": code, "gas": hex(1_000_000)})
        receipt = wait_until(lambda: self.call("eth_getTransactionReceipt", tx), RECEIPT_S,
                             "the contract's transaction is in a block", self.process)
        if receipt["status"] != "0x1":
            raise Failed(f"the contract was not deployed: {receipt}")
        return receipt["contractAddress"].lower()

    def key_file(self, account: int, path: Path) -> Path:
        """Writes an account's private key, for its owner's eyes only."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(self._keys[account].removeprefix("0x") + "\n")
        return path

    def final_hash(self, block: int) -> str:
        """Hash of a finalized block."""
        final = int(self.call("eth_getBlockByNumber", "finalized", False)["number"], 16)
        if final < block:
            raise Failed(f"block {block} is not final, only {final} is")
        return self.call("eth_getBlockByNumber", hex(block), False)["hash"]
