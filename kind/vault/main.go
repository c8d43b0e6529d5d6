// Command vault is HashiCorp Vault, server and command, for the local cluster.
//
// Its module takes its own sdk from a folder beside it, which a build from the registry does not have. v1.21.0 is the
// newest release that builds with a published sdk as it is; later ones were cut between two of them.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
