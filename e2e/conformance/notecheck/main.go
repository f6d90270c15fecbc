// Command notecheck opens checkpoints with golang.org/x/mod/sumdb/note and prints what they say.
//
//	notecheck VKEY_FILE CHECKPOINT_FILE...      one line each: origin, size, root in hex
//
// Exit codes: 0 all opened, 1 one did not.
package main

import (
	"encoding/base64"
	"fmt"
	"log"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: notecheck VKEY_FILE CHECKPOINT_FILE...")
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(read(os.Args[1]))))
	if err != nil {
		log.Fatalf("%s: %v", os.Args[1], err)
	}
	for _, file := range os.Args[2:] {
		opened, err := note.Open(read(file), note.VerifierList(verifier))
		if err != nil {
			log.Fatalf("%s: %v", file, err)
		}
		var origin, root64 string
		var size uint64
		if _, err := fmt.Sscanf(opened.Text, "%s\n%d\n%s\n", &origin, &size, &root64); err != nil {
			log.Fatalf("%s: not a checkpoint: %v", file, err)
		}
		root, err := base64.StdEncoding.DecodeString(root64)
		if err != nil {
			log.Fatalf("%s: root: %v", file, err)
		}
		fmt.Printf("%s %d %x\n", origin, size, root)
	}
}

func read(file string) []byte {
	data, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	return data
}
