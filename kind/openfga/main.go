// Command openfga is the OpenFGA server with its commands `run` and `migrate`, as the official image has them.
package main

import (
	"os"

	"github.com/openfga/openfga/cmd"
	"github.com/openfga/openfga/cmd/migrate"
	"github.com/openfga/openfga/cmd/run"
)

func main() {
	root := cmd.NewRootCommand()
	root.AddCommand(run.NewRunCommand(), migrate.NewMigrateCommand(), cmd.NewVersionCommand())
	if err := root.Execute(); err != nil {
		os.Exit(1)
	}
}
