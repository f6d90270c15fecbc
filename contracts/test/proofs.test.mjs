import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { deploy, startAnvil } from './anvil.mjs';
import { consistencyProof, inclusionProof, leafHash, node, rootOf } from './merkle.mjs';

const MAX_SIZE = 20;
const MAX_U64 = 2n ** 64n - 1n;
const LEAVES = Array.from({ length: MAX_SIZE }, (_, i) => leafHash(Buffer.from(`entry ${i}`)));
const ROOTS = Array.from({ length: MAX_SIZE + 1 }, (_, size) => rootOf(LEAVES.slice(0, size)));
const STRANGER = leafHash(Buffer.from('stranger'));

let anvil;
let contract;

before(async () => {
  anvil = await startAnvil();
  contract = await deploy(anvil, 'MeshChainProofs');
});
after(() => anvil?.stop());

async function verdict(name, ...args) {
  return (await contract.call(name, ...args))[0];
}

function flipBit(hash, bit) {
  const flipped = Buffer.from(hash);
  flipped[bit >> 3] ^= 1 << (bit & 7);
  return flipped;
}

/** The proof with one hash too few or too many at either end, and with one bit flipped per hash. */
function corruptions(proof) {
  const lengths = [[...proof, STRANGER], [STRANGER, ...proof]];
  if (proof.length > 0) lengths.push(proof.slice(1), proof.slice(0, -1));
  const flips = proof.map((hash, i) => proof.with(i, flipBit(hash, (37 * i) % 256)));
  return [...lengths, ...flips];
}

test('naive_tree_matches_the_known_root_of_eight_entries', () => {
  const entries = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f'];
  const leaves = entries.map((hex) => leafHash(Buffer.from(hex, 'hex')));
  // From the test data of certificate-transparency, used by most implementations since.
  assert.equal(rootOf(leaves).toString('hex'), '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328');
});

test('leaf_hash_matches_the_naive_one', async () => {
  for (const length of [0, 1, 31, 32, 33, 1000]) {
    const entry = Buffer.alloc(length, 0xa5);
    assert.equal(await verdict('leafHash', entry), `0x${leafHash(entry).toString('hex')}`);
  }
});

test('inclusion_of_every_leaf_verifies', async () => {
  for (let size = 1; size <= MAX_SIZE; size++) {
    for (let index = 0; index < size; index++) {
      const proof = inclusionProof(index, LEAVES.slice(0, size));
      const args = [index, size, LEAVES[index], proof, ROOTS[size]];
      assert.equal(await verdict('verifyInclusion', ...args), true, `leaf ${index} of ${size}`);
    }
  }
});

test('corrupted_inclusion_is_refuted', async () => {
  for (let size = 1; size <= MAX_SIZE; size++) {
    for (let index = 0; index < size; index++) {
      const proof = inclusionProof(index, LEAVES.slice(0, size));
      const [leaf, root] = [LEAVES[index], ROOTS[size]];
      const cases = [
        [index, size, flipBit(leaf, index), proof, root],
        [index, size, leaf, proof, flipBit(root, index)],
        [(index + 1) % (size + 1), size, leaf, proof, root],
        [index ^ 1, size, leaf, proof, root],
        ...corruptions(proof).map((bad) => [index, size, leaf, bad, root]),
      ];
      for (const [i, args] of cases.entries()) {
        assert.equal(await verdict('verifyInclusion', ...args), false, `leaf ${index} of ${size}, case ${i}`);
      }
    }
  }
});

test('inclusion_at_every_wrong_index_is_refuted', async () => {
  for (let index = 0; index < MAX_SIZE; index++) {
    const proof = inclusionProof(index, LEAVES);
    for (let wrong = 0; wrong < MAX_SIZE + 2; wrong++) {
      if (wrong === index) continue;
      const args = [wrong, MAX_SIZE, LEAVES[index], proof, ROOTS[MAX_SIZE]];
      assert.equal(await verdict('verifyInclusion', ...args), false, `leaf ${index} at ${wrong}`);
    }
  }
});

test('inclusion_path_of_another_length_is_refuted_even_if_it_hashes_to_the_root', async () => {
  for (let index = 0; index < MAX_SIZE; index++) {
    const proof = [...inclusionProof(index, LEAVES), STRANGER];
    const root = node(STRANGER, ROOTS[MAX_SIZE]);
    const args = [index, MAX_SIZE, LEAVES[index], proof, root];
    assert.equal(await verdict('verifyInclusion', ...args), false, `overlong, leaf ${index}`);
  }
  for (let index = 0; index < 16; index++) {
    const proof = inclusionProof(index, LEAVES.slice(0, 16));
    const args = [index, MAX_SIZE, LEAVES[index], proof, ROOTS[16]];
    assert.equal(await verdict('verifyInclusion', ...args), false, `short, leaf ${index}`);
  }
});

test('inclusion_outside_the_tree_is_refuted_at_the_ends_of_the_range', async () => {
  for (const [index, size] of [[0, 0], [1, 1], [MAX_U64, 0], [MAX_U64, MAX_U64]]) {
    assert.equal(await verdict('verifyInclusion', index, size, LEAVES[0], [], LEAVES[0]), false);
  }
});

test('consistency_of_every_pair_of_sizes_verifies', async () => {
  for (let size2 = 1; size2 <= MAX_SIZE; size2++) {
    for (let size1 = 1; size1 <= size2; size1++) {
      const proof = consistencyProof(size1, LEAVES.slice(0, size2));
      const args = [size1, size2, ROOTS[size1], ROOTS[size2], proof];
      assert.equal(await verdict('verifyConsistency', ...args), true, `${size1} to ${size2}`);
    }
  }
});

test('corrupted_consistency_is_refuted', async () => {
  for (let size2 = 1; size2 <= MAX_SIZE; size2++) {
    for (let size1 = 1; size1 <= size2; size1++) {
      const proof = consistencyProof(size1, LEAVES.slice(0, size2));
      const [root1, root2] = [ROOTS[size1], ROOTS[size2]];
      const cases = [
        [size1, size2, flipBit(root1, size1), root2, proof],
        [size1, size2, root1, flipBit(root2, size2), proof],
        ...corruptions(proof).map((bad) => [size1, size2, root1, root2, bad]),
      ];
      if (size1 < size2) {
        cases.push([size1, size2, root2, root1, proof], [size2, size1, root1, root2, proof]);
      }
      for (const [i, args] of cases.entries()) {
        assert.equal(await verdict('verifyConsistency', ...args), false, `${size1} to ${size2}, case ${i}`);
      }
    }
  }
});

test('consistency_path_of_another_length_is_refuted_even_if_it_hashes_to_the_roots', async () => {
  for (let size1 = 1; size1 < MAX_SIZE; size1++) {
    const proof = [...consistencyProof(size1, LEAVES), STRANGER];
    const roots = [ROOTS[size1], ROOTS[MAX_SIZE]].map((root) => node(STRANGER, root));
    const args = [size1, MAX_SIZE, ...roots, proof];
    assert.equal(await verdict('verifyConsistency', ...args), false, `overlong, from ${size1}`);
  }
  for (let size1 = 1; size1 < 16; size1++) {
    const proof = consistencyProof(size1, LEAVES.slice(0, 16));
    const args = [size1, MAX_SIZE, ROOTS[size1], ROOTS[16], proof];
    assert.equal(await verdict('verifyConsistency', ...args), false, `short, from ${size1}`);
  }
});

test('rewritten_leaf_has_no_consistency_proof', async () => {
  for (let size1 = 1; size1 < MAX_SIZE; size1++) {
    const rewritten = LEAVES.with(size1 - 1, STRANGER);
    const args = [size1, MAX_SIZE, ROOTS[size1], rootOf(rewritten), consistencyProof(size1, rewritten)];
    assert.equal(await verdict('verifyConsistency', ...args), false, `${size1} to ${MAX_SIZE}`);
  }
});

test('consistency_with_the_empty_tree_is_refuted', async () => {
  for (const size2 of [0, 1, MAX_SIZE]) {
    assert.equal(await verdict('verifyConsistency', 0, size2, ROOTS[0], ROOTS[size2], []), false);
  }
});

test('consistency_at_the_end_of_the_range_terminates', async () => {
  const [root1, root2] = [ROOTS[1], ROOTS[2]];
  assert.equal(await verdict('verifyConsistency', MAX_U64, MAX_U64, root1, root1, []), true);
  assert.equal(await verdict('verifyConsistency', MAX_U64 - 1n, MAX_U64, root1, root2, [root1]), false);
  assert.equal(await verdict('verifyConsistency', 2n ** 63n, MAX_U64, root1, root2, []), false);
});

test('ether_and_unknown_selectors_revert', async () => {
  const call = { from: anvil.accounts[1], to: contract.address };
  await assert.rejects(anvil.rpc('eth_call', { ...call, value: '0x1' }, 'latest'), { data: '0x' });
  await assert.rejects(anvil.rpc('eth_call', { ...call, data: '0xdeadbeef' }, 'latest'), { data: '0x' });
});
