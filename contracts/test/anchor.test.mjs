import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { id } from 'ethers';
import { deploy, send, startAnvil } from './anvil.mjs';

const LOG = id('log');
const OTHER_LOG = id('other log');
const ROOT = id('root');
const NEXT_ROOT = id('next root');
const MAX_U64 = 2n ** 64n - 1n;
// Given, so that the node mines what its own estimate would refuse to send.
const GAS = '0x30d40';

let anvil;
let contract;
let alice;
let bob;

before(async () => {
  anvil = await startAnvil();
  [, alice, bob] = anvil.accounts;
});
after(() => anvil?.stop());
beforeEach(async () => {
  contract = await deploy(anvil, 'MeshChainAnchor');
});

async function anchor(from, ...args) {
  const receipt = await send(anvil, { ...contract.tx(from, 'anchor', ...args), gas: GAS });
  assert.equal(receipt.status, '0x1');
  return receipt;
}

async function head(sender, logId) {
  return (await contract.call('head', sender, logId)).toObject();
}

/** Checks the revert data, and that the mined transaction fails and leaves alice's head alone. */
async function assertReverts(tx, expected) {
  const data = await anvil.rpc('eth_call', tx, 'latest').then(
    () => assert.fail('call succeeded'),
    (error) => error.data,
  );
  if (expected === undefined) {
    assert.equal(data, '0x');
  } else {
    const { name, args } = contract.abi.parseError(data);
    assert.deepEqual([name, ...args], expected);
  }

  const earlier = await head(alice, LOG);
  const receipt = await send(anvil, { ...tx, gas: GAS });
  assert.equal(receipt.status, '0x0');
  assert.deepEqual(receipt.logs, []);
  assert.deepEqual(await head(alice, LOG), earlier);
}

test('head_of_an_unknown_log_is_zero', async () => {
  assert.deepEqual(await head(alice, LOG), {
    size: 0n,
    blockNumber: 0n,
    timestamp: 0n,
    root: `0x${'00'.repeat(32)}`,
  });
});

test('anchor_stores_the_head_with_its_block', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  const { blockNumber } = await anchor(alice, LOG, 3, 5, NEXT_ROOT);
  const { timestamp } = await anvil.rpc('eth_getBlockByNumber', blockNumber, false);
  assert.deepEqual(await head(alice, LOG), {
    size: 5n,
    blockNumber: BigInt(blockNumber),
    timestamp: BigInt(timestamp),
    root: NEXT_ROOT,
  });
});

test('anchor_emits_one_event', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  const { logs } = await anchor(alice, LOG, 3, 5, NEXT_ROOT);
  assert.equal(logs.length, 1);
  assert.equal(logs[0].address, contract.address);
  assert.equal(logs[0].topics[0], id('Anchored(address,bytes32,uint64,uint64,bytes32)'));
  assert.equal(logs[0].topics.length, 3);
  const { name, args } = contract.abi.parseLog(logs[0]);
  assert.equal(name, 'Anchored');
  assert.deepEqual(
    { ...args.toObject(), sender: args.sender.toLowerCase() },
    { sender: alice, logId: LOG, prevSize: 3n, size: 5n, root: NEXT_ROOT },
  );
});

test('anchor_writes_the_same_two_slots_every_time', async () => {
  const written = async (hash) => {
    const options = { tracer: 'prestateTracer', tracerConfig: { diffMode: true } };
    const { post } = await anvil.rpc('debug_traceTransaction', hash, options);
    return Object.keys(post[contract.address].storage).sort();
  };
  const first = await anchor(alice, LOG, 0, 3, ROOT);
  const second = await anchor(alice, LOG, 3, 5, NEXT_ROOT);
  const slots = await written(first.transactionHash);
  assert.equal(slots.length, 2);
  assert.deepEqual(await written(second.transactionHash), slots);
});

test('largest_tree_size_is_accepted', async () => {
  await anchor(alice, LOG, 0, MAX_U64, ROOT);
  assert.equal((await head(alice, LOG)).size, MAX_U64);
});

test('first_anchor_with_a_previous_size_reverts', () =>
  assertReverts(contract.tx(alice, 'anchor', LOG, 1, 3, ROOT), ['StaleHead', 0n]));

test('first_anchor_of_the_empty_tree_reverts', () =>
  assertReverts(contract.tx(alice, 'anchor', LOG, 0, 0, ROOT), ['NotGrowing', 0n, 0n]));

test('replayed_anchor_reverts', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  await assertReverts(contract.tx(alice, 'anchor', LOG, 0, 3, ROOT), ['StaleHead', 3n]);
});

test('stale_previous_size_reverts', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  await anchor(alice, LOG, 3, 5, NEXT_ROOT);
  await assertReverts(contract.tx(alice, 'anchor', LOG, 3, 9, ROOT), ['StaleHead', 5n]);
});

test('previous_size_ahead_of_the_head_reverts', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  await assertReverts(contract.tx(alice, 'anchor', LOG, 4, 9, ROOT), ['StaleHead', 3n]);
});

test('equal_size_reverts', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  await assertReverts(contract.tx(alice, 'anchor', LOG, 3, 3, NEXT_ROOT), ['NotGrowing', 3n, 3n]);
});

test('smaller_size_reverts', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  await assertReverts(contract.tx(alice, 'anchor', LOG, 3, 2, NEXT_ROOT), ['NotGrowing', 3n, 2n]);
});

test('size_wider_than_64_bits_reverts', async () => {
  const tx = contract.tx(alice, 'anchor', LOG, 0, MAX_U64, ROOT);
  const word = MAX_U64.toString(16).padStart(64, '0');
  const wide = (MAX_U64 + 1n).toString(16).padStart(64, '0');
  await assertReverts({ ...tx, data: tx.data.replace(word, wide) });
});

test('ether_sent_with_anchor_reverts', () =>
  assertReverts({ ...contract.tx(alice, 'anchor', LOG, 0, 3, ROOT), value: '0x1' }));

test('plain_ether_reverts', () => assertReverts({ from: alice, to: contract.address, value: '0x1' }));

test('ether_sent_with_deployment_reverts', async () => {
  const tx = { from: alice, data: contract.bytecode, value: '0x1', gas: '0xf4240' };
  assert.equal((await send(anvil, tx)).status, '0x0');
});

test('unknown_selector_reverts', () =>
  assertReverts({ from: alice, to: contract.address, data: '0xdeadbeef' }));

test('empty_call_reverts', () => assertReverts({ from: alice, to: contract.address }));

test('two_senders_of_one_log_id_do_not_interfere', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  await anchor(bob, LOG, 0, 7, NEXT_ROOT);
  await anchor(alice, LOG, 3, 5, NEXT_ROOT);
  assert.equal((await head(alice, LOG)).size, 5n);
  assert.equal((await head(bob, LOG)).size, 7n);
  await assertReverts(contract.tx(bob, 'anchor', LOG, 5, 9, ROOT), ['StaleHead', 7n]);
});

test('two_logs_of_one_sender_do_not_interfere', async () => {
  await anchor(alice, LOG, 0, 3, ROOT);
  await anchor(alice, OTHER_LOG, 0, 7, NEXT_ROOT);
  assert.equal((await head(alice, LOG)).size, 3n);
  assert.equal((await head(alice, OTHER_LOG)).size, 7n);
});

test('deployed_code_is_the_committed_artifact', async () => {
  const code = await anvil.rpc('eth_getCode', contract.address, 'latest');
  assert.equal(code, contract.deployedBytecode);
});
