package cli

import (
	"net"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/server"
)

func (a *app) serve() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use: "serve", Short: "Run the server until SIGTERM or SIGINT", Args: exactly(0),
		Long: "Runs the server in the foreground. SIGTERM and SIGINT let running requests end, a second\n" +
			"signal ends it at once. The log goes to standard error. On the first start a TLS key and a\n" +
			"self-signed certificate are made in the data directory.",
		Example: "  uvbond-server serve --config /etc/uvbond/server.toml\n  uvbond-server serve --listen 127.0.0.1:9443",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			if listen != "" {
				cfg.Listen = listen
				if err := cfg.Validate(); err != nil {
					return &usageError{err}
				}
			}
			opts := server.Options{Config: cfg, Log: cfg.Log.Logger(a.err), Version: version()}
			if a.json {
				opts.Ready = func(api, metrics net.Addr) {
					line := map[string]string{"listen": api.String()}
					if metrics != nil {
						line["metrics"] = metrics.String()
					}
					a.print(line) //nolint:errcheck // nobody reads it: the log says the same
				}
			}
			return server.Run(cmd.Context(), opts)
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "address to listen on, instead of the configuration's")
	return c
}
