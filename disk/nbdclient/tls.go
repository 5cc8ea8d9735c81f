package nbdclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxPEM bounds a file of certificates or a key, in bytes.
const maxPEM = 1 << 20

// TLSFiles names PEM files. Cert and Key are the client's, both or neither.
type TLSFiles struct {
	CA, Cert, Key string
}

// Config returns the TLS configuration towards the server of that name, of which
// CA must have signed the certificate. Certificates of the system are not used.
func (f TLSFiles) Config(hostname string) (*tls.Config, error) {
	if hostname == "" {
		return nil, errors.New("nbd: TLS needs the server's name: add tls-hostname=NAME to the URI")
	}
	if f.CA == "" {
		return nil, errors.New("nbd: TLS needs a file of CA certificates")
	}
	ca, err := readPEM(f.CA)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{ServerName: hostname, RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !c.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("nbd: %s has no certificate", f.CA)
	}
	if f.Cert == "" && f.Key == "" {
		return c, nil
	}
	if f.Cert == "" || f.Key == "" {
		return nil, errors.New("nbd: a client certificate needs its key, and the key its certificate")
	}
	cert, err := readPEM(f.Cert)
	if err != nil {
		return nil, err
	}
	key, err := readPEM(f.Key)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("nbd: %s and %s do not belong together or are malformed", f.Cert, f.Key)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("nbd: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(b) > maxPEM {
		err = errors.New("file is too long")
	}
	if err != nil {
		return nil, fmt.Errorf("nbd: %s: %w", path, err)
	}
	return b, nil
}
