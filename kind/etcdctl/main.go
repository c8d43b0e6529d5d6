// Command etcdctl is the client of etcd and, called as etcdutl, the tool for the files of a server that does not run.
// The commands of etcdutl are put together here as in its own main package, which cannot be imported.
package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
)

func offline() error {
	root := &cobra.Command{Use: "etcdutl", Short: "An administrative command line tool for etcd3."}
	root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple",
		"set the output format (fields, json, protobuf, simple, table)")
	root.AddCommand(
		etcdutl.NewDefragCommand(),
		etcdutl.NewSnapshotCommand(),
		etcdutl.NewHashKVCommand(),
		etcdutl.NewVersionCommand(),
		etcdutl.NewCompletionCommand(),
		etcdutl.NewMigrateCommand(),
	)
	root.SetHelpTemplate("{{.UsageString}}")
	return root.Execute()
}

func main() {
	if filepath.Base(os.Args[0]) != "etcdutl" {
		ctlv3.MustStart()
		return
	}
	if err := offline(); err != nil {
		cobrautl.ExitWithError(cobrautl.ExitError, err)
	}
}
