import { defineConfig } from 'vitepress';

// The manual as a site, from the same pages that the repository shows. Nothing is fetched when it is read: no fonts, no search
// service, no statistics.
const repository = process.env['SALLYPORT_REPOSITORY'] ?? '';

export default defineConfig({
  title: 'Sallyport',
  description: 'Credential-injecting, recording proxy for PostgreSQL, SQL Server and MySQL/MariaDB',
  srcExclude: ['adr/**'],
  outDir: '.vitepress/dist',
  cacheDir: '.vitepress/cache',
  rewrites: { 'README.md': 'index.md' },
  cleanUrls: true,
  // Pages link to files of the repository that are no part of the site (../docker, ../CONTRIBUTING.md).
  ignoreDeadLinks: [/\.\.\/(\.\.\/)?(docker|bench|[A-Z-]+$|[A-Z-]+\.md)/, /(CONTRIBUTING|CHANGELOG|docker|bench)/],
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    ...(repository === '' ? {} : { socialLinks: [{ icon: 'github', link: repository }] }),
    sidebar: [
      {
        text: 'Begin',
        items: [
          { text: 'Quick start', link: '/quick-start' },
          { text: 'Comparison', link: '/comparison' },
        ],
      },
      {
        text: 'Tools',
        collapsed: true,
        items: [
          { text: 'psql and libpq', link: '/tools/psql' },
          { text: 'pgAdmin', link: '/tools/pgadmin' },
          { text: 'DBeaver', link: '/tools/dbeaver' },
          { text: 'DataGrip', link: '/tools/datagrip' },
          { text: 'mysql', link: '/tools/mysql' },
          { text: 'mariadb', link: '/tools/mariadb' },
          { text: 'MySQL Workbench', link: '/tools/mysql-workbench' },
          { text: 'JDBC with MySQL', link: '/tools/jdbc-mysql' },
          { text: 'SSMS', link: '/tools/ssms' },
          { text: 'sqlcmd, bcp, ODBC', link: '/tools/sqlcmd' },
          { text: 'VS Code, Azure Data Studio', link: '/tools/vscode-mssql' },
          { text: 'JDBC with SQL Server', link: '/tools/jdbc-sqlserver' },
          { text: 'Tableau, Power BI, Metabase', link: '/tools/business-intelligence' },
          { text: 'Libraries', link: '/tools/orm' },
        ],
      },
      {
        text: 'Run',
        items: [
          { text: 'Operations', link: '/operations' },
          { text: 'Access', link: '/access' },
          { text: 'Tunnels', link: '/tunnels' },
          { text: 'Secret providers', link: '/secrets' },
          { text: 'Recordings', link: '/recordings' },
        ],
      },
      {
        text: 'Look up',
        items: [
          { text: 'Settings', link: '/configuration' },
          { text: 'Commands', link: '/cli' },
          { text: 'Errors', link: '/errors' },
          { text: 'Metrics', link: '/metrics' },
          { text: 'Recording format', link: '/recording-format' },
        ],
      },
      {
        text: 'Understand',
        items: [
          { text: 'Security model', link: '/security' },
          { text: 'Architecture', link: '/architecture' },
          { text: 'PostgreSQL', link: '/protocols/postgres' },
          { text: 'MySQL and MariaDB', link: '/protocols/mysql' },
          { text: 'SQL Server', link: '/protocols/sqlserver' },
        ],
      },
    ],
  },
});
