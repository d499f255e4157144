import { BlockList, isIP } from 'node:net';

/** The environment variables that name proxies, as curl and others read them: lower case before upper. */
type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The proxy that leads to `url`, by HTTPS_PROXY or HTTP_PROXY (by the scheme of `url`), else ALL_PROXY; null for a direct way.
 * Never one for this machine itself, nor for what NO_PROXY lists: names with all below them,
 * addresses, networks (`10.0.0.0/8`), each with a port or without; `*` is everything. Throws when the variable holds no URL of an HTTP proxy.
 */
export function proxyFor(url: URL, environment: Environment): URL | null {
  const { hostname } = url;
  const host = hostname.replace(/^\[|\]$/g, '').toLowerCase();
  if (host === 'localhost' || host.endsWith('.localhost') || host === '::1' || /^127\./.test(host))
    return null;
  const isSecure = url.protocol === 'https:';
  const port = url.port || (isSecure ? '443' : '80');
  if (isExcepted(host, port, read(environment, 'no_proxy') ?? '')) return null;
  const name = isSecure ? 'https_proxy' : 'http_proxy';
  const text = read(environment, name) ?? read(environment, 'all_proxy');
  if (text === undefined) return null;
  const proxy = URL.parse(text.includes('://') ? text : `http://${text}`);
  if (proxy === null || (proxy.protocol !== 'http:' && proxy.protocol !== 'https:'))
    throw new Error(
      `${name.toUpperCase()} names no HTTP proxy; write http://HOST:PORT, or list ${host} in NO_PROXY`,
    );
  return proxy;
}

function read(environment: Environment, name: string): string | undefined {
  return environment[name] || environment[name.toUpperCase()] || undefined;
}

function isExcepted(host: string, port: string, list: string): boolean {
  return list
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .some((entry) => {
      if (entry === '*') return true;
      if (entry.includes('/')) return isWithin(host, entry);
      const match = /^(?:\*?\.)?\[?(.*?)\]?(?::(\d+))?$/.exec(isIP(entry) === 6 ? `[${entry}]` : entry);
      const [, name = '', only] = match ?? [];
      if (only !== undefined && only !== port) return false;
      return host === name || (isIP(host) === 0 && host.endsWith(`.${name}`));
    });
}

function isWithin(host: string, network: string): boolean {
  const [address = '', length = ''] = network.split('/');
  const family = isIP(address);
  if (family === 0 || isIP(host) !== family || !/^\d{1,3}$/.test(length)) return false;
  if (Number(length) > (family === 4 ? 32 : 128)) return false;
  const type = family === 4 ? 'ipv4' : 'ipv6';
  const list = new BlockList();
  list.addSubnet(address, Number(length), type);
  return list.check(host, type);
}
