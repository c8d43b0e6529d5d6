// Command opa is the Open Policy Agent as its static build: no WebAssembly. The build tag opa_no_oci leaves out bundles
// from image registries; bundles by HTTP and from files are there.
package main

import (
	"errors"
	"os"

	"github.com/open-policy-agent/opa/cmd"
)

func main() {
	err := cmd.RootCommand.Execute()
	if exit, ok := errors.AsType[*cmd.ExitError](err); ok {
		os.Exit(exit.Exit)
	}
	if err != nil {
		os.Exit(1)
	}
}
