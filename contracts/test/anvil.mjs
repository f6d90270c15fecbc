import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Interface } from 'ethers';

const BUNDLED = fileURLToPath(new URL('../node_modules/.bin/anvil', import.meta.url));
const POLL_MS = 10;
const DEADLINE_MS = 20_000;

/**
 * Starts anvil on a free port; `stop` ends it, as does the exit of this process.
 * ANVIL names another binary where the pinned package does not exist for the platform.
 */
export async function startAnvil() {
  const binary = process.env.ANVIL ?? BUNDLED;
  const child = spawn(binary, ['--host', '127.0.0.1', '--port', '0', '--threads', '1'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const exited = once(child, 'exit');

  const stop = async () => {
    kill();
    await exited;
    process.off('exit', kill);
  };
  try {
    const url = `http://${await listeningAddress(child, exited)}`;
    await until(`rpc at ${url}`, () => rpc(url, 'eth_chainId').catch(() => null));
    const accounts = await rpc(url, 'eth_accounts');
    return { rpc: (method, ...params) => rpc(url, method, ...params), accounts, stop };
  } catch (error) {
    kill();
    throw error;
  }
}

async function listeningAddress(child, exited) {
  let text = '';
  const found = new Promise((resolve) => {
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      const match = /^Listening on (\S+)$/m.exec(text);
      if (match) resolve(match[1]);
    });
  });
  const died = exited.then(([code]) => {
    throw new Error(`anvil exited with ${code} before it listened:\n${text}`);
  });
  // The child also exits in every good run, after the race is decided.
  died.catch(() => {});
  return Promise.race([found, died]);
}

async function until(what, probe) {
  const deadline = Date.now() + DEADLINE_MS;
  while (Date.now() < deadline) {
    const result = await probe();
    if (result !== null) return result;
    await sleep(POLL_MS);
  }
  throw new Error(`${what}: not ready after ${DEADLINE_MS} ms`);
}

class RpcError extends Error {
  constructor(method, { message, data }) {
    super(`${method}: ${message}`);
    this.data = data;
  }
}

async function rpc(url, method, ...params) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
  });
  const { result, error } = await response.json();
  if (error) throw new RpcError(method, error);
  return result;
}

/** Sends a transaction from an unlocked account and returns its receipt, reverted or not. */
export async function send(anvil, tx) {
  const hash = await anvil.rpc('eth_sendTransaction', tx);
  return until(`receipt of ${hash}`, () => anvil.rpc('eth_getTransactionReceipt', hash));
}

/** Deploys the committed artifact. */
export async function deploy(anvil, name) {
  const path = new URL(`../artifacts/${name}.json`, import.meta.url);
  const { abi, bytecode, deployedBytecode } = JSON.parse(readFileSync(path, 'utf8'));
  const { contractAddress } = await send(anvil, { from: anvil.accounts[0], data: bytecode });
  return new Contract({ anvil, address: contractAddress, abi: new Interface(abi), bytecode, deployedBytecode });
}

class Contract {
  constructor(fields) {
    Object.assign(this, fields);
  }

  /** The call as a transaction object for `eth_call` or `send`. */
  tx(from, name, ...args) {
    return { from, to: this.address, data: this.abi.encodeFunctionData(name, args) };
  }

  async call(name, ...args) {
    const data = await this.anvil.rpc('eth_call', this.tx(this.anvil.accounts[0], name, ...args), 'latest');
    return this.abi.decodeFunctionResult(name, data);
  }
}
