/* A stand-in for pyxis: makes srun and sbatch take its --container-* options.
 *
 * The image is not unpacked: a task keeps the host's files. Its bind mounts and its working directory are
 * real, in a mount namespace of its own, and mounts are split as pyxis splits them: "," between mounts, ":"
 * within one, blanks between the fields of the fstab line that is made of it. A task finds what was asked for
 * in STUB_CONTAINER_IMAGE, _MOUNTS and so on. An image whose name holds "missing" cannot be pulled.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

SPANK_PLUGIN(container_stub, 1)

enum { IMAGE, MOUNTS, WORKDIR, NAME, SAVE, ENVIRONMENT, HOME, NO_HOME, REMAP, NO_REMAP, WRITABLE, READONLY, COUNT };

static char *given[COUNT];
static const char *const variables[COUNT] = {
    "IMAGE", "MOUNTS", "WORKDIR", "NAME", "SAVE", "ENV", "MOUNT_HOME", "NO_MOUNT_HOME",
    "REMAP_ROOT", "NO_REMAP_ROOT", "WRITABLE", "READONLY"};

static int keep(int which, const char *value, int remote)
{
    (void)remote;
    free(given[which]);
    given[which] = strdup(value ? value : "yes");
    return given[which] ? 0 : -1;
}

#define WITH(name, which) {(char *)name, (char *)"VALUE", (char *)"[stand-in for pyxis]", 1, which, keep}
#define FLAG(name, which) {(char *)name, NULL, (char *)"[stand-in for pyxis]", 0, which, keep}

static struct spank_option taken[] = {
    WITH("container-image", IMAGE), WITH("container-mounts", MOUNTS), WITH("container-workdir", WORKDIR),
    WITH("container-name", NAME), WITH("container-save", SAVE), WITH("container-env", ENVIRONMENT),
    FLAG("container-mount-home", HOME), FLAG("no-container-mount-home", NO_HOME),
    FLAG("container-remap-root", REMAP), FLAG("no-container-remap-root", NO_REMAP),
    FLAG("container-writable", WRITABLE), FLAG("container-readonly", READONLY), SPANK_OPTIONS_TABLE_END};

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    for (struct spank_option *each = taken; each->name; each++)
        if (spank_option_register(spank, each) != ESPANK_SUCCESS)
            return -1;
    return 0;
}

static int is_container(void) { return given[IMAGE] || given[NAME]; }

/* The file that says which mounts a named container of this job has: a later step may leave them out. */
static void recall_mounts(spank_t spank)
{
    char path[512], line[65536];
    uint32_t job = 0;
    spank_get_item(spank, S_JOB_ID, &job);
    snprintf(path, sizeof path, "/tmp/container-stub-%u-%s", job, given[NAME]);
    FILE *file = fopen(path, given[MOUNTS] ? "w" : "r");
    if (!file)
        return;
    if (given[MOUNTS])
        fputs(given[MOUNTS], file);
    else if (fgets(line, sizeof line, file))
        given[MOUNTS] = strdup(line);
    fclose(file);
}

static int make_target(const char *target, int directory)
{
    char path[4200];
    snprintf(path, sizeof path, "%s", target);
    for (char *at = path + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(path, 0755);
            *at = '/';
        }
    if (directory)
        return mkdir(path, 0755) && errno != EEXIST ? -1 : 0;
    FILE *file = fopen(path, "a");
    return file ? fclose(file) : -1;
}

static int bind_one(char *mount_text)
{
    char *source = strsep(&mount_text, ":");
    char *target = mount_text ? strsep(&mount_text, ":") : source;
    struct stat what;
    if (strpbrk(source, " \t\n") || strpbrk(target, " \t\n")) {
        slurm_error("container stub: a blank in %s:%s ends a field of fstab", source, target);
        return -1;
    }
    if (stat(source, &what)) {
        slurm_error("container stub: cannot mount %s: %s", source, strerror(errno));
        return -1;
    }
    if (!strcmp(source, target))
        return 0;
    if (make_target(target, S_ISDIR(what.st_mode)) || mount(source, target, NULL, MS_BIND | MS_REC, NULL)) {
        slurm_error("container stub: cannot mount %s at %s: %s", source, target, strerror(errno));
        return -1;
    }
    if (mount_text && strstr(mount_text, "ro"))
        mount(source, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL);
    return 0;
}

int slurm_spank_task_init_privileged(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    if (!is_container())
        return 0;
    if (given[IMAGE] && strstr(given[IMAGE], "missing")) {
        slurm_error("container stub: failed to import image %s", given[IMAGE]);
        return -1;
    }
    if (given[NAME])
        recall_mounts(spank);
    if (!given[MOUNTS])
        return 0;
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        slurm_error("container stub: no mount namespace: %s", strerror(errno));
        return -1;
    }
    char *rest = strdup(given[MOUNTS]), *each;
    int failed = 0;
    char *all = rest;
    while (!failed && (each = strsep(&rest, ",")))
        failed = bind_one(each);
    free(all);
    return failed;
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    char name[64];
    if (!is_container())
        return 0;
    for (int which = 0; which < COUNT; which++)
        if (given[which]) {
            snprintf(name, sizeof name, "STUB_CONTAINER_%s", variables[which]);
            spank_setenv(spank, name, given[which], 1);
        }
    if (given[WORKDIR] && chdir(given[WORKDIR])) {
        slurm_error("container stub: cannot go to %s: %s", given[WORKDIR], strerror(errno));
        return -1;
    }
    return 0;
}
