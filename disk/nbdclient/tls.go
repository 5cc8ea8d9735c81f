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

// TLSData is what is in these files. It holds a private key.
type TLSData struct {
	CA, Cert, Key []byte
}

// Read reads the files.
func (f TLSFiles) Read() (*TLSData, error) {
	if f.CA == "" {
		return nil, errors.New("nbd: TLS needs a file of CA certificates")
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("nbd: a client certificate needs its key, and the key its certificate")
	}
	var d TLSData
	for _, x := range []struct {
		path string
		to   *[]byte
	}{{f.CA, &d.CA}, {f.Cert, &d.Cert}, {f.Key, &d.Key}} {
		if x.path == "" {
			continue
		}
		var err error
		if *x.to, err = readPEM(x.path); err != nil {
			return nil, err
		}
	}
	return &d, nil
}

// Config returns the TLS configuration towards the server of that name, of which
// CA must have signed the certificate. Certificates of the system are not used.
func (d *TLSData) Config(hostname string) (*tls.Config, error) {
	if hostname == "" {
		return nil, errors.New("nbd: TLS needs the server's name: add tls-hostname=NAME to the URI")
	}
	c := &tls.Config{ServerName: hostname, RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !c.RootCAs.AppendCertsFromPEM(d.CA) {
		return nil, errors.New("nbd: the file of CA certificates has none")
	}
	if len(d.Cert) == 0 {
		return c, nil
	}
	pair, err := tls.X509KeyPair(d.Cert, d.Key)
	if err != nil {
		return nil, errors.New("nbd: client certificate and key do not belong together or are malformed")
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
