// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Inclusion and consistency proofs of SHA-256 Merkle trees, RFC 9162 section 2.1
/// @notice Stateless. The tree heads are arguments: that they are anchored, and by whom, is for
/// the caller to check.
contract MeshChainProofs {
    /// @notice Leaf hash of a log entry: SHA-256(0x00 || entry).
    function leafHash(bytes calldata entry) external pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x00), entry));
    }

    /// @notice Whether `proof` shows the leaf at `index` in the tree, by RFC 9162 section 2.1.3.2.
    /// @param index Leaf index, from 0.
    /// @param size Tree size, in leaves. A root does not commit to it; take it from the same tree
    /// head as the root.
    /// @param leaf Leaf hash, not the entry itself.
    /// @param proof Sibling hashes from the leaf upwards; a proof of any other length fails.
    /// @param root Root hash of the tree of that size.
    function verifyInclusion(
        uint64 index,
        uint64 size,
        bytes32 leaf,
        bytes32[] calldata proof,
        bytes32 root
    ) external pure returns (bool) {
        if (index >= size) return false;

        uint64 fn = index;
        uint64 sn = size - 1;
        bytes32 hash = leaf;
        for (uint256 i = 0; i < proof.length; i++) {
            if (sn == 0) return false;
            if (_isRight(fn, sn)) {
                hash = _node(proof[i], hash);
                (fn, sn) = _climb(fn, sn);
            } else {
                hash = _node(hash, proof[i]);
            }
            fn >>= 1;
            sn >>= 1;
        }
        return sn == 0 && hash == root;
    }

    /// @notice Whether `proof` shows that the tree of `size2` extends the tree of `size1`, by
    /// RFC 9162 section 2.1.4.2. Equal sizes need equal roots and an empty proof. The empty tree
    /// proves nothing: `size1` = 0 fails.
    /// @param size1 Older tree size, in leaves.
    /// @param size2 Newer tree size, in leaves.
    /// @param root1 Root hash of the older tree.
    /// @param root2 Root hash of the newer tree.
    /// @param proof Consistency path; a path of any other length fails.
    function verifyConsistency(
        uint64 size1,
        uint64 size2,
        bytes32 root1,
        bytes32 root2,
        bytes32[] calldata proof
    ) external pure returns (bool) {
        if (size1 == 0 || size1 > size2) return false;
        if (size1 == size2) return proof.length == 0 && root1 == root2;
        if (proof.length == 0) return false;

        uint64 fn = size1 - 1;
        uint64 sn = size2 - 1;
        while (fn & 1 == 1) {
            fn >>= 1;
            sn >>= 1;
        }

        // A complete older tree is itself the first node of the path, which then omits it.
        bool complete = size1 & (size1 - 1) == 0;
        bytes32 hash1 = complete ? root1 : proof[0];
        bytes32 hash2 = hash1;
        for (uint256 i = complete ? 0 : 1; i < proof.length; i++) {
            if (sn == 0) return false;
            if (_isRight(fn, sn)) {
                hash1 = _node(proof[i], hash1);
                hash2 = _node(proof[i], hash2);
                (fn, sn) = _climb(fn, sn);
            } else {
                hash2 = _node(hash2, proof[i]);
            }
            fn >>= 1;
            sn >>= 1;
        }
        return sn == 0 && hash1 == root1 && hash2 == root2;
    }

    /// @dev Whether the path's next node is the left sibling.
    function _isRight(uint64 fn, uint64 sn) private pure returns (bool) {
        return fn & 1 == 1 || fn == sn;
    }

    /// @dev Skips the levels on which the last node of the tree has no sibling.
    function _climb(uint64 fn, uint64 sn) private pure returns (uint64, uint64) {
        while (fn & 1 == 0 && fn != 0) {
            fn >>= 1;
            sn >>= 1;
        }
        return (fn, sn);
    }

    /// @dev Hash of an inner node: SHA-256(0x01 || left || right).
    function _node(bytes32 left, bytes32 right) private pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x01), left, right));
    }
}
